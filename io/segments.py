"""Segments of a film as files, and their join: what is encoded piece by piece becomes one output.

A segment is a Matroska file of video alone, made by an encoder of its own, which begins with a key
frame and refers to no other file. Its blocks only number the pictures, one every 40 ms, since
Matroska rounds times to 1 ms. The exact times, in ticks of the film, stand in an element behind it
that readers skip, with a digest of the whole file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from ..filters.frame import PixelFormat, StreamInfo
from .calls import frames_of
from .encode.codecs import is_image, joined_options
from .encode.containers import Container, container_of
from .encode.encoder import EncoderOptions, Encoding, codec_choice, encoding_of
from .encode.packets import AnyPacket, EncoderTimeline, VideoTiming, fix_dts, mux, untyped
from .errors import SinkRefused, VerificationFailed, reason_of
from .extent import segment_end
from .files import OutputFile, Owner, discard_partials
from .losses import LossLedger
from .sink import FileSink
from .streams.plan import StreamPlan
from .verify import ExpectedOutput, main_video
from .writer import MediaWriter, Trial, try_output

_STEP = Fraction(40, 1000)
_VERSION = 1
_DIGEST_BYTES = hashlib.sha256().digest_size
_TOKEN = "segment"
_MOST_REORDERED = 32
"""Frames by which an encoder may reorder, at most."""
_TELLING_FRAMES = 8
"""Of a segment that shows an encoder's delay; with fewer it may have no use for all of it."""


_SEPARATE = {
    "libx264", "libx264rgb", "libx265", "libsvtav1", "libvpx-vp9", "ffv1", "mpeg4", "prores",
    "prores_aw", "prores_ks", "mjpeg",
}  # fmt: skip
"""Encoders that begin with a key frame behind which no frame refers to what was before."""
_CONTAINERS = ("mp4", "mov", "matroska", "webm")
_IN_TS = ("libx264", "libx264rgb", "libx265")
"""Encoders whose headers FFmpeg writes into the packets, since MPEG-TS has no other place."""
_WHY = {
    "spends bits with regard to all of the film": re.compile(
        r"b|bit_?rate|abr|tbr|mbr|maxrate|minrate|bufsize|rc_init_occupancy|vbv_.*|(nal_)?hrd|rc|"
        r"strict_cbr|ratetol|target_bitrate|(under|over)shoot_pct|buf_.*|crf_max|avcintra_class"
    ),
    "depends on another pass over the film": re.compile(
        r"pass|passes|stats|passlogfile|multi_pass.*|(slow|fast)_?firstpass|(refine_)?analysis_.*|fpf"
    ),
    "counts frames from the beginning of the film": re.compile(
        r"qpfile|zones?|zonefile|dhdr10_info|dolby_vision_rpu|chunk_(start|end)|frames|seek|"
        r"force_key_frames|roi_map_file|csv|recon|dump_yuv"
    ),
}
"""Why options need one encoder for all of the film, and their names."""
_PASS_FLAG = re.compile(r"pass[12]")


def why_not_cut(
    encoder: EncoderOptions, info: StreamInfo, target: str | Path, format: str | None = None
) -> str | None:
    """Say why an output cannot be encoded in segments, for people; None if it can.

    Arguments are those of `open_file_sink`.

    Raises:
        SinkRefused: for an unknown encoder, pixel format or container.
    """
    if is_image(target, format):
        return "each image has an encoder of its own"
    container, choice = container_of(target, format), codec_choice(info, encoder, target, format)
    codec = choice.codec
    if container.name not in _CONTAINERS and (container.name != "mpegts" or codec not in _IN_TS):
        return f"{codec} in {container.name} is not joined, only in MP4, MOV, Matroska and WebM"
    if codec not in _SEPARATE:
        return f"{codec} does not promise that frames refer to no other segment"
    if codec == "libvpx-vp9" and PixelFormat.parse(choice.pix_fmt).has_alpha:
        return "VP9 keeps alpha in packets of their own"
    return next(_common(encoder.options), None)


def _common(options: dict[str, str]) -> Iterator[str]:
    """Yield the options that need one encoder for all of the film, and why."""
    pairs = [*options.items()]
    for key, value in options.items():
        if key.endswith(("-params", "opts")):
            pairs += [(one.partition("=")[0], one.partition("=")[2]) for one in value.split(":")]
    for key, value in pairs:
        plain = key.strip().replace("-", "_")
        for why, names in _WHY.items():
            if names.fullmatch(plain) and value != "0":
                yield f"the encoder's option {key} {why}"
        if plain == "flags" and _PASS_FLAG.search(value):
            yield f"the encoder's option {key} {value} depends on another pass over the film"


def _encoding(
    info: StreamInfo, encoder: EncoderOptions, target: Path, format: str | None
) -> Encoding:
    """Return how segments are encoded: as the film would be, but in closed groups of pictures."""
    if why := why_not_cut(encoder, info, target, format):
        raise SinkRefused(f"{target.name} cannot be made of segments: {why}")
    encoding, ours = encoding_of(info, encoder, target, format), dict[str, str]()
    if encoding.choice.codec == "libx265":
        ours = {"x265-params": "open-gop=0"}
    elif encoding.choice.codec.startswith("libx264") and info.width % 128 and _has_avx512():
        # where a row of macroblocks is no multiple of 8, mbtree's AVX-512 reads beyond it, what
        # memory held before; with MALLOC_PERTURB_ x264 (core 165) gives other packets at 320x180
        ours = {"x264-params": "asm=AVX2"}
    options = encoder.model_copy(update={"options": joined_options(ours, encoder.options)})
    return replace(encoding, options=options)


@lru_cache(maxsize=1)
def _has_avx512() -> bool:
    """Return whether x264 uses AVX-512 here, as far as the system says."""
    try:
        return "avx512bw" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """What a segment's file holds."""

    size: int
    """Bytes."""
    sha256: str
    """Of the whole file."""
    time_base: Fraction
    """Seconds in one tick."""
    times: tuple[tuple[int, int], ...]
    """Pts and duration of each picture in ticks, in order; none where filters dropped them all."""
    delay: int
    """Frames by which decoding precedes showing."""
    num_messages: int
    """T.35 messages in its packets."""


def segment_facts(path: Path) -> SegmentFacts:
    """Look at a segment's file: its digest shows whether it still is as it was verified.

    Raises:
        VerificationFailed: if it is missing, damaged, cut off, or no segment.
    """
    digest = hashlib.sha256()
    try:
        end, size = segment_end(path), path.stat().st_size
        with path.open("rb") as file:
            left = size - _DIGEST_BYTES
            while left > 0 and (data := file.read(min(left, 1 << 20))):
                digest.update(data)
                left -= len(data)
            if end is None or left or digest.digest() != (stored := file.read()):
                raise VerificationFailed(f"{path.name} is no whole segment, or damaged")
            file.seek(end + len(_void(b"")))
            table = json.loads(file.read()[:-_DIGEST_BYTES])
    except OSError as error:
        raise VerificationFailed(f"{path.name}: {reason_of(error)}") from error
    if table["version"] != _VERSION:
        raise VerificationFailed(f"{path.name}: wanted version {_VERSION}, got {table['version']}")
    digest.update(stored)
    return SegmentFacts(
        size,
        digest.hexdigest(),
        Fraction(table["time_base"]),
        tuple((pts, duration) for pts, duration in table["times"]),
        table["delay"],
        table["messages"],
    )


def _void(content: bytes) -> bytes:
    """Return the head of an element that readers skip, and its content but for the digest."""
    return b"\xec\x01" + (len(content) + _DIGEST_BYTES).to_bytes(7) + content  # RFC 8794, 11.3.2


def open_segment_sink(
    path: Path,
    info: StreamInfo,
    encoder: EncoderOptions,
    *,
    target: Path,
    format: str | None = None,
    final: bool = False,
) -> FileSink:
    """Open the sink of one segment. Its file has its name once it is verified and on the disk.

    What a dead process left half written at `path` is removed. All that follows it is as for
    `open_file_sink`; `final` means that the film ends with this segment.

    Raises:
        SinkRefused: as `open_file_sink`, or if the output cannot be encoded in segments.
    """
    encoding = _encoding(info, encoder, target, format)
    lengthens_last = final and encoding.container.holds_edit_lists
    encoding = replace(encoding, container=Container("matroska"))
    trial = try_output(encoding, None, ())
    with suppress(OSError):
        discard_partials(path, _TOKEN)
    owner = Owner(_TOKEN, lambda _: None, follows_links=False)
    media = _SegmentWriter(OutputFile(path, overwrite=True, owner=owner), encoding, trial)
    return FileSink(media, encoding, lengthens_last=lengthens_last)


class _PictureTimes(EncoderTimeline):
    """Keeps the times of all pictures, as they were given."""

    def __init__(self, timing: VideoTiming, time_base: Fraction) -> None:
        super().__init__(timing, time_base)
        self.given: list[tuple[int, int]] = []
        self.ticks: list[int] = []

    def enter(self, pts: int, duration: int) -> tuple[int, int]:
        entered = super().enter(pts, duration)
        self.given.append((pts, duration))
        self.ticks.append(entered[0])
        return entered


class _SegmentWriter(MediaWriter):
    """Writes the file of a segment: numbers packets, and appends the times of the pictures."""

    def __init__(self, file: OutputFile, encoding: Encoding, trial: Trial) -> None:
        super().__init__(file, encoding, None, LossLedger(file.target.name), trial)
        self.timeline = self._times = _PictureTimes(self.encoder.timing, self._info.time_base)
        self.encoder.stream.time_base = _STEP
        self._num_packets = self._delay = self._num_messages = 0

    def begin(self, pts: int) -> None:
        """Do nothing: packets are numbered."""

    def mux(self, packet: AnyPacket, *, is_last: bool = False) -> None:
        """Mux a packet with the number of its picture, which Matroska stores exactly."""
        fix_dts(packet, self._times.ticks[-1])
        self._delay += packet.dts is not None and packet.dts < 0
        packet.pts = bisect_left(self._times.ticks, packet.pts or 0)
        packet.dts = self._num_packets - _MOST_REORDERED
        packet.duration, packet.time_base = 1, _STEP
        self._num_packets += 1
        mux(self._output, packet)

    def finish(self, num_messages: int) -> None:
        """Complete, verify and rename the file."""
        self._num_messages = num_messages
        with self.errors_named("complete"):
            self._output.start_encoding()  # if there was no picture
        super().finish(num_messages)

    def _amend(self) -> None:
        table = {
            "version": _VERSION,
            "time_base": str(self._info.time_base),
            "delay": self._delay,
            "messages": self._num_messages,
            "times": self._times.given,
        }
        stream = self._file.stream
        stream.seek(0, os.SEEK_END)
        stream.write(_void(json.dumps(table, separators=(",", ":")).encode()))
        stream.seek(0)
        stream.write(hashlib.file_digest(untyped(stream), "sha256").digest())

    def _verify(self, num_messages: int) -> None:
        name = self._file.target.name
        if list(segment_facts(self._written).times) != self._times.given:
            raise VerificationFailed(f"{name}: its times are not those that were written")
        if self._times.given:
            super()._verify(num_messages)
            _check_decodes(self._written, len(self._times.given), name)

    def _expected(self, num_messages: int) -> ExpectedOutput:
        last = _STEP * (len(self._times.given) - 1)
        expected = super()._expected(num_messages)
        return replace(expected, last_start_seconds=last, duration_seconds=None)

    def _report(self) -> None:
        """Leave it to the join, which sees the same timestamps."""


def _check_decodes(path: Path, num_frames: int, name: str) -> None:
    """Decode all of a segment."""
    num_whole = 0
    try:
        with av.open(str(path)) as opened:
            stream = opened.streams.video[0]
            decoder, stream.thread_type = stream.codec_context, "AUTO"
            decoder.options = {"err_detect": "crccheck+explode"}
            for packet in opened.demux(stream):
                num_whole += sum(not one.is_corrupt for one in frames_of(decoder, packet))
    except FFmpegError as error:
        raise VerificationFailed(f"{name}: frame {num_whole} does not decode: {error}") from error
    if num_whole != num_frames:
        raise VerificationFailed(f"{name}: {num_whole} of {num_frames} frames decode")


def open_joined_sink(
    target: Path,
    info: StreamInfo,
    encoder: EncoderOptions,
    *,
    plan: StreamPlan | None = None,
    overwrite: bool = False,
    format: str | None = None,
    owner: Owner | None = None,
    trial: Trial | None = None,
) -> JoinedSink:
    """Open a sink that takes the files of segments, in order.

    Arguments are those of `open_file_sink`; info, encoder and format as for the segments.

    Raises:
        SinkRefused: as `open_file_sink`, or if the output cannot be encoded in segments.
    """
    encoding = _encoding(info, encoder, target, format)
    ledger = LossLedger(target.name) if plan is None else plan.ledger(target.name)
    file = OutputFile(target, overwrite=overwrite, owner=owner)
    return JoinedSink(MediaWriter(file, encoding, plan, ledger, trial), info)


class JoinedSink:
    """Joins segments into one output; see :func:`open_joined_sink`.

    The n-th packet is decoded when picture n - `delay` is shown, as encoders do it; the first ones
    are as much before picture n as the picture `delay` is behind the first.
    """

    def __init__(self, media: MediaWriter, info: StreamInfo) -> None:
        self.info = info
        """What holds for the pictures of the output."""
        self._media = media
        self._waiting: list[tuple[Path, SegmentFacts]] = []  # until the delay is known
        self._delay: int | None = None
        self._dts: deque[int] = deque()  # of the next packets
        self._held: AnyPacket | None = None
        self._header: bytes | None = None
        self._last_pts: int | None = None
        self._num_messages = 0

    def append(self, path: Path) -> None:
        """Join the next segment.

        Raises:
            SinkFull: if the output cannot be written.
            VerificationFailed: if the file is no segment of this film, or does not follow.
        """
        facts = segment_facts(path)
        if facts.time_base != self.info.time_base:
            ticks = f"ticks of {self.info.time_base} s, got {facts.time_base}"
            raise VerificationFailed(f"{path.name}: wanted {ticks}")
        if not facts.times:
            return
        first, before = facts.times[0][0], self._last_pts
        if before is not None and first <= before:
            raise VerificationFailed(f"{path.name}: begins at {first}, wanted more than {before}")
        self._last_pts = facts.times[-1][0]
        self._num_messages += facts.num_messages
        self._waiting.append((path, facts))
        if self._delay is not None or len(facts.times) >= _TELLING_FRAMES:
            self._join()

    def _join(self) -> None:
        """Join the segments that wait."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        timeline = self._media.timeline
        if self._delay is None:
            self._media.begin(waiting[0][1].times[0][0])
        placed = [[timeline.enter(*times)[0] for times in facts.times] for _, facts in waiting]
        ticks = [one for each in placed for one in each]
        if self._delay is None:
            self._delay = delay = max(facts.delay for _, facts in waiting)
            lead = ticks[min(delay, len(ticks) - 1)] - ticks[0]
            self._dts.extend(one - lead for one in ticks[:delay])
        self._dts.extend(ticks)
        for (path, _), own in zip(waiting, placed, strict=True):
            self._join_one(path, own)

    def _join_one(self, path: Path, ticks: list[int]) -> None:
        encoder = self._media.encoder
        for packet in self._packets(path, encoder.stream.codec_context):
            packet.pts = ticks[round((packet.pts or 0) * packet.time_base / _STEP)]
            packet.dts, packet.time_base = self._dts.popleft(), encoder.timing.time_base
            if packet.dts > packet.pts:
                raise VerificationFailed(
                    f"{path.name}: reorders more than {self._delay} pictures, others do not"
                )
            packet.stream = encoder.stream
            self._mux_held(packet)

    def _packets(self, path: Path, encoder: VideoCodecContext) -> Iterator[AnyPacket]:
        """Yield the packets of a segment, once it is known to be of the same encoder."""
        try:
            with av.open(str(path)) as opened:
                video = main_video(opened)
                self._refuse_other(path, video.codec_context, encoder)
                yield from (packet for packet in opened.demux(video) if packet.size)
        except FFmpegError as error:
            raise VerificationFailed(f"{path.name} cannot be read: {reason_of(error)}") from error

    def _refuse_other(
        self, path: Path, codec: VideoCodecContext, encoder: VideoCodecContext
    ) -> None:
        """Refuse packets that do not fit to the header of the output, which is the first one's."""
        codecs = (codec, encoder)
        got, wanted = (f"{one.codec.canonical_name} {one.width}x{one.height}" for one in codecs)
        if got != wanted:
            raise VerificationFailed(f"{path.name}: wanted a segment of {wanted}, got {got}")
        header = codec.extradata or b""
        if self._header is None:
            self._header = header
            if header:  # of the same form as the packets: units have lengths, not start codes
                encoder.extradata = header
        elif header != self._header:
            raise VerificationFailed(f"{path.name}: its encoder had other parameters than others")

    def _mux_held(self, packet: AnyPacket | None) -> None:
        """Mux the packet before, now that it is known whether it is the last one."""
        held, self._held = self._held, packet
        if held is not None:
            with self._media.errors_named("join segments into"):
                self._media.mux(held, is_last=packet is None)

    def finish(self) -> None:
        """Complete and verify the output, and rename it.

        Raises:
            SinkFull, SinkRefused, VerificationFailed: as `FileSink.finish`.
        """
        try:
            self._join()
            self._mux_held(None)
            self._media.finish(self._num_messages)
        finally:
            self.abort()

    def losses(self) -> list[str]:
        """Return what the output loses of its source, for people; once it is finished, as found."""
        return self._media.losses()

    def abort(self) -> None:
        """Stop and remove what was written, but no segment. As `FileSink.abort`."""
        self._media.abort()
