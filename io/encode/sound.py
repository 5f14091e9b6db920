"""Sound that is decoded and encoded again: with which encoder and parameters, and at which times.

A lossless stream keeps every sample where the container has a lossless codec of its width. Bit
rates follow the number of channels; layout and sample rate are kept where the encoder has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, cast

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.codec import Codec
from av.error import FFmpegError

from .options import SOUND_ENCODERS
from .packets import AnyPacket, decoded_audio, encoded, nearest

if TYPE_CHECKING:
    import numpy.typing as npt
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream

    from .containers import Container

_LOSSLESS = ("flac", "alac", "wavpack", "tta", "ape", "mlp", "truehd", "shorten", "tak")
_BY_BITS = {
    16: ("flac", "alac", "pcm_s16le"), 24: ("flac", "alac", "pcm_s24le"),
    32: ("pcm_s32le", "flac", "alac"),
}  # fmt: skip
"""Encoders for lossless streams. FLAC and ALAC hold integers of up to 24 bits."""
_BY_FLOAT = {"flt": ("pcm_f32le", "flac", "alac"), "dbl": ("pcm_f64le", "flac", "alac")}
_USUAL = ("aac", "opus", "ac3", "mp2")
_USUAL_OF = {
    "webm": ("opus",), "asf": ("wmav2",), "mpeg": ("mp2",), "vob": ("ac3",), "mxf": ("pcm_s16le",),
}  # fmt: skip
_BIT_RATES = {
    "aac": 96_000, "libopus": 80_000, "ac3": 96_000, "eac3": 96_000, "mp2": 96_000,
    "libmp3lame": 96_000, "wmav2": 96_000,
}  # fmt: skip
"""Bits per second for each channel, at which most people hear no difference."""
_OPUS_RATES = (48_000,)  # at which it is always decoded (RFC 7845)
_WIDEST = ("flt", "s32", "dbl", "s16", "u8")
_LAYOUTS = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")
"""The layouts of 1 to 8 channels that most encoders have."""
_FOLDED = {"5.1": 6, "stereo": 2}
# Debian 12's players (FFmpeg 5.1) take all PCM in MP4 for 16 bit little-endian, and play noise; WMA
# in MOV they do not know
_MISREAD = {
    "mp4": ("pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be"),
    "mov": ("wmav1", "wmav2", "wmapro", "wmalossless", "wmavoice"),
}
_SILENCE_SECONDS = "0.02"  # a hole or an overlap; less is rounding of the container


@dataclass(frozen=True, slots=True)
class SoundCoding:
    """How to encode sound."""

    encoder: str
    """FFmpeg's name."""
    sample_format: str
    sample_rate: int
    """Samples per second."""
    layout: str
    bit_rate: int = 0
    """Bits per second; 0 for encoders that lose nothing."""
    loses: str | None = None
    """What is lost or changed, for people; None if no sample changes."""

    @property
    def keeps_24_bits(self) -> bool:
        """Whether the encoder keeps 24 bits of samples of 32."""
        return self.encoder in ("flac", "alac", "pcm_s24le") and self.sample_format[:3] == "s32"


def is_misread(codec: str, container: Container) -> bool:
    """Return whether players of some years ago make noise or nothing of a codec in a container."""
    return codec in _MISREAD.get(container.name, ())


def codings_for(
    stream: AudioStream, packets: Sequence[AnyPacket], container: Container, asked: str
) -> Iterator[SoundCoding]:
    """Yield the ways to encode a stream for a container, best first; some may not work.

    Its first `packets` tell how many bits of its samples are used. A codec of `SOUND_ENCODERS` is
    `asked` for, or ``auto`` for the least loss.
    """
    context = stream.codec_context
    if cast("object | None", context.format) is None or not context.sample_rate:
        return  # its header is damaged: it cannot be decoded
    name, codecs = context.codec.canonical_name, (asked,)
    bits = _used_bits(stream, packets) if name in _LOSSLESS or name.startswith("pcm_") else 0
    if asked == "auto":
        kind = context.format.packed.name
        for encoder in (_BY_FLOAT.get(kind) or _BY_BITS[bits]) if bits else ():
            if not is_misread(encoder, container):
                yield next(_codings_with(encoder, stream, bits))  # in no other layout
        codecs = (*_USUAL_OF.get(container.name, ()), *_USUAL)
    for codec in codecs:
        yield from _codings_with(SOUND_ENCODERS[codec], stream, bits)


def _used_bits(stream: AudioStream, packets: Sequence[AnyPacket]) -> int:
    """Return how many bits its samples use, as far as the first packets show: 16, 24, 32 or 64.

    Most decoders give samples of 24 bits as 32, of which the lowest 8 are zero.
    """
    context = stream.codec_context
    if context.format.bytes < 4 or context.format.packed.name in _BY_FLOAT:
        return 8 * max(context.format.bytes, 2)
    context.flush_buffers()
    try:
        frames = [frame for packet in packets for frame in decoded_audio(stream, packet)]
    except FFmpegError:  # damaged: what is encoded is looked at too
        return 24
    return 32 if any(map(_num_wide, frames)) else 24


def _num_wide(frame: AudioFrame) -> int:
    """Count the samples that do not fit in 24 bits."""
    if frame.format.packed.name != "s32":
        return 0
    samples = cast("npt.NDArray[np.int32]", frame.to_ndarray())
    return int(np.count_nonzero(samples & 0xFF))


def _codings_with(encoder: str, stream: AudioStream, bits: int) -> Iterator[SoundCoding]:
    """Yield codings with one encoder, in the source's layout, then in those that it may have.

    The source's samples have so many `bits`; 0 if it is lossy.
    """
    context = stream.codec_context
    given, kind = context.layout, context.format.packed.name
    formats, rates = _abilities(encoder)
    sample_format, rate = _nearest_format(kind, formats), context.sample_rate
    if rates and rate not in rates:  # one that loses nothing, if there is one
        rate = min((one for one in rates if one > rate), default=max(rates))
    kept = 16 if sample_format[:3] == "s16" else 24
    lost: list[str] = []
    if "Atmos" in (stream.profile or ""):
        lost.append("the objects of Dolby Atmos are lost, its channels are kept")
    if encoder in _BIT_RATES:
        lost.append("encoded again at {} kbit/s")
    elif bits > kept and not encoder.startswith(("pcm_f", "pcm_s32")):
        what = "floating point" if kind in _BY_FLOAT else f"{bits} bits"
        lost.append(f"{what} rounded to {kept} bits")
    if rate != context.sample_rate:
        lost.append(f"resampled from {context.sample_rate} to {rate} Hz")
    folded = [name for name, count in _FOLDED.items() if count < given.nb_channels]
    for layout in dict.fromkeys((given.name, *_LAYOUTS[given.nb_channels - 1 :][:1], *folded)):
        bit_rate = _BIT_RATES.get(encoder, 0) * _FOLDED.get(layout, given.nb_channels)
        mixed = [f"mixed down from {given.name} to {layout}"] if layout in folded else []
        text = ", ".join([*lost, *mixed]).format(bit_rate // 1000)
        yield SoundCoding(encoder, sample_format, rate, layout, bit_rate, text or None)


@cache
def _abilities(encoder: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return an encoder's sample formats and rates; none where it takes any, or is not there."""
    try:
        codec = Codec(encoder, "w")
    except ValueError:
        return (), ()
    formats = tuple(form.name for form in codec.audio_formats or ())
    return formats, _OPUS_RATES if encoder == "libopus" else tuple(codec.audio_rates or ())


def _nearest_format(kind: str, names: tuple[str, ...]) -> str:
    """Choose the sample format of the same kind, planar or packed, else the widest."""
    by_kind = {av.AudioFormat(name).packed.name: name for name in names}
    wanted = (kind, "s16" if kind == "u8" else kind, *_WIDEST)
    return next((by_kind[one] for one in wanted if one in by_kind), kind)


class SoundConverter:
    """Decodes the packets of a stream, and encodes their samples.

    Times are counted in samples, since containers round them: they follow those of the source
    only across a hole, which is filled with silence, and an overlap, which is cut. The target, in
    the container, is not open yet.
    """

    def __init__(
        self, source: AudioStream, target: AudioStream, coding: SoundCoding, container: Container
    ) -> None:
        self._source = source
        self._target = target
        self._coding = coding
        self._resampler = self._new_resampler()
        self._keeps_priming = container.holds_edit_lists or container.name in ("matroska", "webm")
        self._start_seconds: Fraction | None = None
        self._end_seconds = Fraction(0)  # of what is decoded
        self.begins_seconds: Fraction | None = None
        """Samples before this time are decoded and left out; None: there are none."""
        self.num_narrowed = 0
        """Samples that have more than the 24 bits that are kept."""
        context = target.codec_context
        context.format = av.AudioFormat(coding.sample_format)
        context.layout = av.AudioLayout(coding.layout)
        context.sample_rate = coding.sample_rate
        context.time_base = Fraction(1, coding.sample_rate)
        if coding.bit_rate:
            context.bit_rate = coding.bit_rate
        if coding.keeps_24_bits:
            context.options = {"bits_per_raw_sample": "24"}

    def _new_resampler(self) -> AudioResampler:
        coding = self._coding
        form = coding.sample_format, coding.layout, coding.sample_rate
        options = {"async": "1", "min_hard_comp": _SILENCE_SECONDS}
        return AudioResampler(*form, frame_size=1024, options=options)

    def __call__(self, packet: AnyPacket | None) -> Iterator[AnyPacket]:
        """Yield the packets that are complete; None as the last packet completes all."""
        for frame in decoded_audio(self._source, packet):
            if self._coding.keeps_24_bits:
                self.num_narrowed += _num_wide(frame)
            if (kept := self._kept(frame)) is not None:
                yield from self._encoded(self._resampled(kept))
        if packet is None:
            yield from self._encoded([*self._resampler.resample(None), None])

    def _kept(self, frame: AudioFrame) -> AudioFrame | None:
        """Give a frame its time; return what of it is not before the beginning."""
        tick = frame.time_base or self._source.time_base or Fraction(1, frame.sample_rate)
        if frame.pts is None:  # a later one of a packet, as of WMA
            frame.pts, frame.time_base = nearest(self._end_seconds / tick), tick
        begins, rate = frame.pts * tick, frame.sample_rate
        self._end_seconds = begins + Fraction(frame.samples, rate)
        if self.begins_seconds is None or begins >= self.begins_seconds:
            return frame
        pts = math.ceil(self.begins_seconds / tick)  # its time is exact there
        count = nearest((pts * tick - begins) * rate)
        if count >= frame.samples:
            return None
        channels = 1 if frame.format.is_planar else frame.layout.nb_channels
        samples = np.ascontiguousarray(frame.to_ndarray()[:, count * channels :])
        kept = av.AudioFrame.from_ndarray(
            samples,  # pyright: ignore[reportArgumentType]  # typed by one kind of sample only
            frame.format.name,
            frame.layout.name,
        )
        kept.sample_rate, kept.pts, kept.time_base = rate, pts, tick
        return kept

    def _resampled(self, frame: AudioFrame) -> list[AudioFrame]:
        try:
            return self._resampler.resample(frame)
        except ValueError:  # its layout or rate has changed
            rest = self._resampler.resample(None)
            self._resampler = self._new_resampler()
            return [*rest, *self._resampler.resample(frame)]

    def _encoded(self, frames: Sequence[AudioFrame | None]) -> Iterator[AnyPacket]:
        for frame in frames:
            if self._start_seconds is None and frame is not None and frame.pts is not None:
                self._start_seconds = frame.pts * cast("Fraction", frame.time_base)
            for packet in encoded(self._target, frame):
                if self._keeps_priming or not self.is_priming(packet):
                    yield packet

    def is_priming(self, packet: AnyPacket) -> bool:
        """Return whether a packet ends before the sound begins: encoders need some to start."""
        if self._start_seconds is None or packet.pts is None:
            return False
        end = (packet.pts + (packet.duration or 0)) * packet.time_base
        return end <= self._start_seconds
