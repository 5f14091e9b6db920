"""What can go wrong with media, and who acts on it.

MediaError                  base: nothing below it is a bug of ours; PyAV's errors end here
├─ SourceMissing            no such input, or not readable: exit 66
├─ UnsupportedMedia         undecodable, empty, no video, no way to write it: exit 65, do not retry
├─ TruncatedMedia           ends too early; whole frames were given: exit 65
├─ SinkRefused              output exists, folder not writable, format unknown: exit 73
│  └─ SameFile              the output is the input: exit 64
├─ SinkFull                 no space, I/O error while writing: exit 74, try again later
├─ ReaderGone               the reader of our stdout closed it: exit 141
└─ VerificationFailed       the written output is not what it should be: exit 70, nothing renamed
"""

from __future__ import annotations


class MediaError(Exception):
    """Media that cannot be read or written, for a reason the user can act on."""


class SourceMissing(MediaError):
    """The input is not there, or may not be read."""


class UnsupportedMedia(MediaError):
    """The input can be opened, but holds no video that we can decode, or it cannot be written."""


class TruncatedMedia(MediaError):
    """The input ends in the middle; what was whole has been given."""


class SinkRefused(MediaError):
    """The output cannot be created: it exists, its folder or its format does not do."""


class SameFile(SinkRefused):
    """The output would overwrite the input, by whatever name."""


class SinkFull(MediaError):
    """The output could be created, but not written: no space, or an I/O error."""


class ReaderGone(MediaError):
    """Whoever read our output has closed it."""


class VerificationFailed(MediaError):
    """The output was written, but is not what it should be."""
