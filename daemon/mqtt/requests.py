"""Requests and replies as JSON, read strictly; every refusal names what was wanted."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, from_json, to_json

from ...filters.options import REAL_ESRGAN_ID, RIFE_ID
from ...io.errors import SourceMissing, UnsupportedMedia
from ...io.redaction import excerpt, redacted, redacted_values
from ...io.root import Identity, Root, filesystem_type, keeps_inodes, open_file
from ...io.web import check_url
from ..jobs.api import to_public_dict
from ..jobs.model import Confinement, Job, JobId
from ..specification import REFUSED, ConversionSpec, Priority, check_length
from .topics import COMMANDS, Command

if TYPE_CHECKING:
    from ..config import JobsConfig


REQUEST_SCHEMA = "upframe.job/1"
REPLY_SCHEMA = "upframe.reply/1"
MAX_PAYLOAD_BYTES = 64 * 1024

_SUPPORTED = re.compile(r"upframe\.job/1(\.\d+)?")
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_PROBLEMS = 5

ErrorCode = Literal[
    "malformed", "too_large", "unsupported_schema", "invalid", "refused", "retained", "expired",
    "conflict", "unknown_job", "illegal_change", "job_failed", "job_cancelled", "timeout",
    "busy", "internal",
]  # fmt: skip


class JobRequest(BaseModel, frozen=True, extra="forbid"):
    """`job/query`, `job/cancel` and `job/retry`: the id of a job.

    Or the state of all that are meant: cancelled are those that run, retried those that failed.
    """

    schema_: str = Field(default=REQUEST_SCHEMA, alias="schema")
    id: JobId | None = None
    state: Literal["running", "failed"] | None = None

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if (self.id is None) == (self.state is None):
            raise ValueError("must have an id or a state, one of them")
        return self


class SubmitRequest(ConversionSpec, frozen=True, extra="forbid"):
    """`job/submit`: a new job."""

    schema_: str = Field(alias="schema", description=f"{REQUEST_SCHEMA}")
    id: JobId | None = Field(
        default=None,
        description="The client's id; the same id and content twice is one job. Without it, each "
        "request is a job, whose id is made and told.",
    )
    priority: Priority = 0


Request = SubmitRequest | JobRequest
_WHOLE: Mapping[Command, str] = {"cancel": "running", "retry": "failed"}
"""The state of jobs of which a request may mean all."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request was refused, as the reply reports it."""

    code: ErrorCode
    message: str
    retryable: bool = False
    detail: str | None = None


class BadRequest(Exception):
    """A request cannot be served; nothing was changed."""

    def __init__(
        self, code: ErrorCode, message: str, *, job_id: str | None = None, retryable: bool = False
    ) -> None:
        super().__init__(message)
        self.problem = Problem(code, excerpt(message, 4096), retryable)
        self.job_id = job_id
        """The id in the request, if it is usable."""


def parse(command: Command, payload: bytes) -> Request:
    """Read a request. Where only a job is named, its id alone will do, without JSON.

    Raises:
        BadRequest: if it is too large, not JSON in UTF-8, of an unknown schema, or has unknown,
            missing or wrong keys.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        text = f"at most {MAX_PAYLOAD_BYTES} bytes are accepted, got {len(payload)}"
        raise BadRequest("too_large", text)
    if command != "submit" and _SAFE_ID.fullmatch(payload.decode(errors="replace")):
        payload = json_bytes({"id": payload.decode()})
    with _unreadable_is_invalid():
        given = _object_of(payload)
        own_id = given.get("id")
        job_id = own_id if isinstance(own_id, str) and _SAFE_ID.fullmatch(own_id) else None
    with _unreadable_is_invalid(job_id):
        schema = given.get("schema", None if command == "submit" else REQUEST_SCHEMA)
        if not (isinstance(schema, str) and _SUPPORTED.fullmatch(schema)):
            got = "none" if schema is None else excerpt(repr(schema))
            text = f"schema: got {got}, supported is {REQUEST_SCHEMA}"
            raise BadRequest("unsupported_schema", text, job_id=job_id)
        try:
            request = _model_of(command).model_validate_json(payload, strict=True)
        except ValidationError as error:
            raise BadRequest("invalid", _problems_of(error), job_id=job_id) from error
        if isinstance(request, JobRequest) and request.state not in (None, _WHOLE.get(command)):
            raise BadRequest("invalid", f"state: {command} takes {_WHOLE.get(command, 'none')}")
        return request


def with_id(payload: bytes, job_id: str) -> bytes:
    """Put an id into a request that was read and has none."""
    return json_bytes({**from_json(payload), "id": job_id})


@contextmanager
def _unreadable_is_invalid(job_id: str | None = None) -> Generator[None]:
    """Refuse a request that a parser cannot read: too deep, too large or malformed."""
    try:
        yield
    except (ValueError, OverflowError, RecursionError) as error:
        text = f"cannot be understood: {type(error).__name__}: {excerpt(str(error))}"
        raise BadRequest("invalid", text, job_id=job_id) from error


def _object_of(payload: bytes) -> dict[str, object]:
    try:
        text = payload.decode("utf-8", errors="strict")
        given: object = from_json(text, allow_inf_nan=False)
    except UnicodeDecodeError as error:
        raise BadRequest("malformed", f"must be UTF-8: {error.reason} at {error.start}") from error
    except ValueError as error:
        raise BadRequest("malformed", f"must be JSON: {excerpt(str(error))}") from error
    if not isinstance(given, dict):
        raise BadRequest("malformed", f"must be a JSON object, got {type(given).__name__}")
    return cast("dict[str, object]", given)


def _problems_of(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_context=False)
    lines = [_problem_of(detail) for detail in details[:_MAX_PROBLEMS]]
    more = len(details) - _MAX_PROBLEMS
    return "; ".join([*lines, f"and {more} more"] if more > 0 else lines)


def _problem_of(detail: ErrorDetails) -> str:
    place = excerpt(".".join(str(level) for level in detail["loc"]))
    if detail["type"] == "extra_forbidden":
        reason = REFUSED["job"].get(place)
        return f"{place}: no option of a job: {reason}" if reason else f"{place}: unknown key"
    if detail["type"] == "missing":
        return f"{place}: missing"
    got = detail["input"]
    shown = "" if isinstance(got, dict) else f", got {excerpt(str(got))!r}"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{place}: {message}{shown}" if place else message


def job_answer(job: Job) -> bytes:
    """Reply with the state of a job."""
    document = to_public_dict(job)
    if job.state in ("queued", "running"):
        return answer("accepted", job.id, document)
    if job.state == "done":
        return answer("done", job.id, document)
    if job.state == "cancelled":
        problem = Problem("job_cancelled", f"job {job.id} was cancelled")
    elif job.error is None:
        problem = Problem("job_failed", f"job {job.id} has failed")
    else:
        error = job.error
        problem = Problem("job_failed", error.message, error.retryable, error.detail)
    return answer("error", job.id, document, problem)


def answer(
    status: Literal["accepted", "done", "error"],
    job_id: str | None,
    data: object = None,
    problem: Problem | None = None,
) -> bytes:
    """Write the reply to a request."""
    error = None if problem is None else redacted_values(asdict(problem))
    return json_bytes(
        {"schema": REPLY_SCHEMA, "status": status, "id": job_id, "data": data, "error": error}
    )


def json_bytes(document: object) -> bytes:
    """Write JSON, with text for values that JSON does not have."""
    return to_json(document, inf_nan_mode="null", fallback=str)


@cache
def request_schemas() -> dict[str, Any]:
    """Return the JSON Schema of each command. The first call takes a tenth of a second.

    The result is shared; do not change it.
    """
    return {command: _model_of(command).model_json_schema() for command in COMMANDS}


def _model_of(command: Command) -> type[Request]:
    return SubmitRequest if command == "submit" else JobRequest


# What a request may access: files below the roots and URLs of the allowed schemes, nothing else.
#
# Links are resolved before the check, and from then on the resolved name is used, beneath its root,
# so that a link that is changed later has no effect. Encoder options and containers that write
# further files are refused.

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PATTERN = re.compile(r"%0?\d{0,2}d|[*?\[]")

_CONTAINERS = (
    "3gp apng asf avi flv gif ipod m4v matroska mkv mov mp4 mpeg mpegts mxf nut qt ts vob webm"
)
"""Muxers that write only the given file; others (tee, segment, hls, …) write further ones."""

_ENCODER_OPTIONS = """
    8x8dct a53cc aq-mode aq-strength arnr-maxframes arnr-strength arnr-type aud auto-alt-ref b
    b-adapt b-bias b-pyramid b-ref-mode b-strategy bf bits-per-mb bluray-compat bufsize cbr
    chromaoffset coder compression-level context cplxblur cpu-used cq crf crf-max deadline deblock
    direct-pred dpi dpm enable-cdef enable-restoration enable-tpl error-resilience fast-pskip
    forced-idr frame-parallel g global-quality huffman intra-refresh intra-vlc keyint-min
    lag-in-frames level lossless max-intra-rate maxrate mbs-per-slice mbtree me-method me-range
    minrate mixed-refs motion-est mpeg-quant multipass nal-hrd no-scenecut noise-reduction
    noise-sensitivity nonref-p overshoot-pct partitions pred preset profile psy psy-rd qblur qcomp
    qdiff qmax qmin qp quality quant-mat rc rc-lookahead refs row-mt sc-threshold sharpness slicecrc
    slices spatial-aq speed static-thresh strict strict-gop subq temporal-aq tier tile-columns
    tile-rows tiles trellis tune tune-content undershoot-pct weightb weighted-pred weightp wpredp
    zerolatency
"""
"""Options that requests may set: none reads or writes a file. FFmpeg spells some with ``_``."""
_OF_X264_AND_X265 = """
    aq-mode aq-strength aud b-adapt b-pyramid bframes bitrate chromaloc colormatrix colorprim crf
    crf-max deblock ipratio keyint level me merange min-keyint nr open-gop pbratio psy-rd qblur
    qcomp qp qpmax qpmin qpstep range rc-lookahead ref scenecut slices subme transfer vbv-bufsize
    vbv-init vbv-maxrate videoformat weightb weightp intra-refresh
"""
_PARAMS = {
    "x264-params": f"""{_OF_X264_AND_X265}
        8x8dct b-bias cabac chroma-me chroma-qp-offset cll cplxblur dct-decimate deadzone-inter
        deadzone-intra direct fast-pskip force-cfr mastering-display mbtree mixed-refs nal-hrd
        partitions psy ratetol stitchable trellis
    """,
    "x265-params": f"""{_OF_X264_AND_X265}
        amp aq-motion b-intra bframe-bias cbqpoffs constrained-intra crqpoffs ctu cutree dynamic-rd
        early-skip fades fast-intra gop-lookahead hash hdr10 hdr10-opt high-tier hrd level-idc
        limit-modes limit-refs limit-tu master-display max-cll max-merge max-tu-size min-cu-size
        psy-rdoq qg-size rc-grain rd rdoq-level rect repeat-headers rskip sao selective-sao signhide
        ssim-rd strong-intra-smoothing temporal-mvp tskip tu-inter-depth tu-intra-depth uhd-bd wpp
    """,
    "svtav1-params": """
        aq-mode chroma-sample-position color-primaries color-range content-light crf enable-cdef
        enable-dlf enable-overlays enable-qm enable-restoration enable-tf enable-variance-boost
        fast-decode film-grain film-grain-denoise hierarchical-levels irefresh-type keyint lookahead
        mastering-display matrix-coefficients mbr pred-struct preset qm-max qm-min qp rc scd scm
        sharpness tbr tile-columns tile-rows transfer-characteristics tune variance-boost-strength
        variance-octile
    """,
}
"""Options that requests may set in the lists that these encoders parse themselves."""
_OPTION_VALUE = re.compile(r"[A-Za-z0-9_.,:+()-]*", re.ASCII)  # no path, no quotes, no escapes


class Refused(Exception):
    """A request names something that it may not access."""


def confined(path_or_url: str, jobs: JobsConfig) -> str:
    """Check the source or sink of a request, and return the name by which to use it.

    Blocks: links are looked up on the file system, which may be a network's. It is an absolute
    path, a numbered sequence, a glob, or a URL, ``file://`` included. A URL is returned unchanged;
    a path is below one of the roots, with all links resolved.

    Raises:
        Refused: if it is outside the roots, also by ``..`` or links, or no absolute path or URL.
    """
    named = excerpt(path_or_url)
    if not path_or_url or _CONTROL.search(path_or_url):
        raise Refused(f"{named!r}: must be a path or URL without control characters")
    match = _SCHEME.match(path_or_url)
    scheme = match[1].lower() if match else "file"
    allowed = tuple(known.lower() for known in jobs.allowed_schemes)
    if scheme not in allowed:
        raise Refused(f"{named}: {scheme} is not among the allowed schemes {', '.join(allowed)}")
    if match is None:
        return _confined_path(path_or_url, jobs)
    if scheme == "file":
        return _confined_path(_path_of_url(path_or_url), jobs)
    url = scheme + path_or_url[match.end(1) :]
    try:
        check_url(url, jobs.allowed_hosts)
    except UnsupportedMedia as error:
        raise Refused(f"{named}: {error}") from error
    except SourceMissing:
        pass  # the worker looks it up and checks it again
    return url


def confined_work(work: ConversionSpec, jobs: JobsConfig) -> ConversionSpec:
    """Check everything that a request names, and return the work with the names to use.

    Raises:
        Refused: as :func:`confined` does; for models that [jobs] does not list, and for encoder
            options or a container that would write further files.
        BadRequest: if a name cannot be parsed.
    """
    with _unreadable_is_invalid():
        if "://" in work.sink and not work.sink.lower().startswith("file://"):
            text = "requests write files below [jobs] roots, and publish nowhere"
            raise Refused(f"sink {excerpt(work.sink)}: {text}")
        if work.container not in (None, *_CONTAINERS.split()):
            wanted = ", ".join(_CONTAINERS.split())
            raise Refused(f"container {work.container!r}: requests may ask for {wanted}")
        check_encoder_options(work.encoder.options)
        return work.model_copy(
            update={
                "source": confined(work.source, jobs),
                "sink": confined(work.sink, jobs),
                "filters": work.filters.with_models(lambda name: _confined_model(name, jobs)),
            }
        )


def confinement(work: ConversionSpec, jobs: JobsConfig, state_dir: Path) -> Confinement:
    """Record the roots of the files of confined work, and the identity of its source.

    Blocks, as :func:`confined` does.

    Raises:
        Refused: if one of them lies in the daemon's own folder, or the source is no regular file.
    """
    source, sink = (_root_of(name, jobs, state_dir) for name in (work.source, work.sink))
    accepted = None
    if source is not None:
        try:
            descriptor = open_file(source, Path(work.source))
        except (FileNotFoundError, PermissionError):  # it may become readable in time
            return Confinement(source=source, sink=sink)
        except OSError as error:
            raise Refused(f"{work.source}: {error.strerror or error}") from error
        try:
            lasting = keeps_inodes(filesystem_type(Path(work.source)))
            accepted = Identity.of(os.fstat(descriptor), lasting=lasting)
        finally:
            os.close(descriptor)
    return Confinement(source=source, sink=sink, accepted=accepted)


def _root_of(name: str, jobs: JobsConfig, state_dir: Path) -> Root | None:
    """Choose the outermost root, whose writers could change the path to an inner one."""
    if "://" in name:
        return None
    closed = Path(os.path.realpath(state_dir))
    if Path(name).is_relative_to(closed):
        raise Refused(f"{name}: lies in the daemon's own folder {state_dir}")
    return Root(_outermost(name, name, jobs), closed)


def _outermost(named: str, path: str, jobs: JobsConfig) -> Path:
    roots = [Path(os.path.realpath(root)) for root in jobs.roots]
    fitting = [root for root in roots if Path(path).is_relative_to(root)]
    if not fitting:
        raise Refused(f"{named}: leads outside of the folders that requests may name")
    return min(fitting, key=lambda root: len(root.parts))


def _path_of_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise Refused(f"{redacted(url)}: must be file:///PATH, without a host")
    try:
        path = unquote(parts.path, errors="strict")
    except UnicodeDecodeError as error:
        raise Refused(f"{url}: must be UTF-8 in its escapes") from error
    if _CONTROL.search(path):
        raise Refused(f"{url}: must be a path without control characters")
    return path


def _confined_path(path: str, jobs: JobsConfig) -> str:
    if not jobs.roots:
        raise Refused(f"{path}: no files by requests: [jobs] roots is empty")
    if not os.path.isabs(path) or "://" in path:
        raise Refused(f"{path!r}: must be an absolute path or a URL")
    try:
        check_length(path)
        resolved = os.path.realpath(path)
        _outermost(path, resolved, jobs)
        # the pictures of a pattern are found by listing its folder, once
        in_folder = _PATTERN.search(os.path.dirname(resolved))
        if in_folder and _PATTERN.search(path) and not os.path.lexists(path):
            raise Refused(f"{path}: numbers and wildcards may stand in the file's name only")
    except (OSError, ValueError, RecursionError) as error:  # too long, a loop, no UTF-8
        raise Refused(f"{excerpt(path)!r}: cannot be resolved: {error}") from error
    return resolved


def check_encoder_options(options: dict[str, str]) -> None:
    """Accept only options with which no encoder reads or writes a file."""
    for key, value in options.items():
        inner = _PARAMS.get(key)
        if inner is None:
            _check_option("encoder option", key, value, f"{_ENCODER_OPTIONS} {' '.join(_PARAMS)}")
            continue
        for part in value.split(":"):
            name, _, given = part.partition("=")
            _check_option(f"encoder option {key}", name.removeprefix("no-"), given, inner)


def _check_option(what: str, name: str, value: str, allowed: str) -> None:
    known = sorted(allowed.split())
    if name.replace("_", "-") not in known:
        raise Refused(f"{what}: got {excerpt(name)!r}, requests may set {', '.join(known)}")
    if not _OPTION_VALUE.fullmatch(value):
        wanted = "letters, digits and any of _ . , : + - ( )"
        raise Refused(f"{what} {name}: got {excerpt(value)!r}, wanted {wanted}")


def _confined_model(name: str, jobs: JobsConfig) -> str:
    """Return the file, folder or hub id by which to load a model that requests may name."""
    allowed = jobs.models or (RIFE_ID, REAL_ESRGAN_ID)
    ids = [one for one in allowed if not os.path.isabs(one)]
    if name == "builtin" or any(name == one or name.startswith(f"{one}:") for one in ids):
        return name
    path = os.path.realpath(name)
    folders = [os.path.realpath(one) for one in allowed if one not in ids]
    if not os.path.isabs(name) or not any(Path(path).is_relative_to(one) for one in folders):
        raise Refused(f"model {excerpt(name)}: wanted builtin or one of {', '.join(allowed)}")
    return path
