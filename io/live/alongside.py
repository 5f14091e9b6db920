"""Where sound belongs: it goes along with the picture, by the same offset."""

from __future__ import annotations

from fractions import Fraction


class Alongside:
    """Places the sound of a sender by the offset of its pictures.

    Sound and pictures do not jump in the same moment. Sound that still comes with the old
    timestamps after the pictures jumped is placed by the offset before; sound that jumped first is
    dropped until the pictures follow.
    """

    def __init__(self) -> None:
        self._offset: Fraction | None = None
        self._before: Fraction | None = None
        self._last: Fraction | None = None

    def disconnected(self) -> None:
        """Forget all offsets: sound waits for the first picture of the next connection."""
        self._offset = self._before = None

    def begin(self, offset: Fraction) -> None:
        """Take an offset where there is none yet, for pictures that give none."""
        if self._offset is None:
            self._offset = offset

    def anchored(self, offset: Fraction) -> None:
        """Take the offset from the sender's time to output time, in seconds, from now on."""
        self._before, self._offset = self._offset, offset

    def place(self, seconds: Fraction, latest: Fraction) -> Fraction | None:
        """Give the output time of a packet.

        Args:
            seconds: On the sender's clock, without wraps.
            latest: Output time after which no sound can be now.

        Returns:
            Seconds from 0 on, after those of the packet before; None where it has no place.
        """
        for offset in (self._offset, self._before):
            if offset is None:
                continue
            time = seconds + offset
            if time <= latest and (time >= 0 if self._last is None else time > self._last):
                if offset == self._offset:
                    self._before = None  # it has followed the pictures
                self._last = time
                return time
        return None
