"""Whether a file is video: looked at in a process of its own, since a damaged one may crash it.

A file that is still arriving is told from one that never will be video: it is empty or begins with
a block of zeros (space that was reserved), is too short for its kind, or its container promises
more bytes than are there.
"""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from pathlib import Path

from ...io.decode.truncation import segment_end
from ...io.errors import MediaError, SourceMissing, TruncatedMedia, UnsupportedMedia
from ...io.source import open_source
from .messages import Event, Probed, ProbeFile, Request, Verdict

_HEAD_BYTES = 4096
_MP4_BOXES = (b"ftyp", b"moov", b"wide", b"free", b"skip", b"mdat")
"""With which a file of that family begins (ISO/IEC 14496-12, 4.2)."""


def judge_request(request: Request) -> Event:
    """Answer a request to probe a file.

    Raises:
        TypeError: for any other request.
    """
    if not isinstance(request, ProbeFile):
        raise TypeError(f"this worker only probes, got {request.kind!r}")
    return Probed(verdict=judge(request.path))


def judge(path: str) -> Verdict:
    """Open a file and decode its first frame."""
    try:
        with closing(open_source(path)) as source:
            if next(islice(source, 1), None) is None:
                raise UnsupportedMedia(f"{path}: holds no frame")
            info = source.info
        return _if_whole(path, f"{path}: {info.width}x{info.height} {info.pix_fmt}")
    except (TruncatedMedia, SourceMissing) as error:
        return Verdict(kind="unfinished", message=str(error))
    except MediaError as error:
        ended_early = isinstance(error.__cause__, EOFError)  # too short to be told apart
        kind = "unfinished" if ended_early or _is_blank(path) else "refused"
        return Verdict(kind=kind, message=str(error))


def _if_whole(path: str, found: str) -> Verdict:
    size, promised = Path(path).stat().st_size, promised_bytes(Path(path))
    if promised is not None and promised > size:
        text = f"{path}: {size} bytes are there, wanted {promised}"
        return Verdict(kind="unfinished", message=text)
    return Verdict(kind="video", message=found)


def _is_blank(path: str) -> bool:
    """Whether a file is empty, or begins with nothing but zeros: reserved, and not written yet."""
    try:
        with open(path, "rb") as file:
            return not any(file.read(_HEAD_BYTES))
    except OSError:
        return False


def promised_bytes(path: Path) -> int | None:
    """Tell how long a file should be by its outermost boxes; None where they do not say.

    Matroska and WebM, MP4 and its family.
    """
    end = segment_end(path)
    return _boxes_end(path) if end is None else end


def _boxes_end(path: Path) -> int | None:
    size = path.stat().st_size
    with path.open("rb") as file:
        offset = 0
        while offset + 16 <= size:
            file.seek(offset)
            head = file.read(16)
            length, name = int.from_bytes(head[:4]), head[4:8]
            if length == 1:
                length = int.from_bytes(head[8:16])
            if (not offset and name not in _MP4_BOXES) or not name.isalnum():
                return None
            if length < 8:  # 0: up to the end of the file
                return None
            offset += length
    return offset or None
