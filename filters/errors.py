"""What can go wrong in a filter, and who acts on it.

    FilterError                 base: nothing below it is a bug of ours
    ├─ CheckpointRejected       wrong or hostile weights: exit 65, do not try again
    ├─ WeightsUnavailable       weights not to be had: exit 69, try again later
    ├─ DeviceUnavailable        no such device: exit 69
    ├─ UnsupportedPixels        a pixel format or colour we cannot convert: exit 65
    └─ TooLarge                 does not fit in memory even in the smallest tiles: exit 75

Wrong arguments are ``ValueError`` or ``TypeError`` and mean a bug.
"""

from __future__ import annotations


class FilterError(Exception):
    """A filter cannot do its work, for a reason the user can act on."""


class CheckpointRejected(FilterError):
    """A file that is no checkpoint, a hostile one, or one of another architecture."""


class WeightsUnavailable(FilterError):
    """The weights exist somewhere, but cannot be had now."""


class DeviceUnavailable(FilterError):
    """The device that was asked for is not there."""


class UnsupportedPixels(FilterError):
    """A pixel format or colour description that cannot be converted exactly."""


class TooLarge(FilterError):
    """A frame does not fit in memory, not even cut into the smallest tiles."""
