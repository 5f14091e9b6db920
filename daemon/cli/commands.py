"""What each command accepts: its arguments, its help and its examples.

The commands themselves are modules beside this one, which load torch, codecs or the daemon. This
one loads none of them, so that help, errors and completion come at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from ...io.encode.options import EncoderOptions
from ..jobs.api import NewJob
from ..jobs.model import State
from ..parser import Parser
from ..specification import (
    ConversionOptions,
    ConversionSpec,
    DeviceOptions,
    PartOptions,
    PipeOptions,
    RuntimeOptions,
    StreamSpec,
)
from .arguments import (
    add_filter_arguments,
    add_options,
    add_progress_arguments,
    location,
    refuse_options,
)

_OFTEN = ("interpolate", "upscale", "codec", "crf", "preset", "overwrite", "device")
"""Fields of the options that people use; the others are shown by --help-all."""
_WATCHING = ("progress", "report")

_SHARED = ("input", "output", "container", "tls_insecure", *DeviceOptions.model_fields)
"""Options of live streams that files have too."""
OF_STREAMS = tuple(
    name for name in StreamSpec.model_fields if name not in (*ConversionSpec.model_fields, *_SHARED)
)
"""Fields of the options that only live streams have."""

_EPILOG_OF_RUN = """\
examples:
  upframe run film.mp4 smooth.mp4 --interpolate 1
  upframe run film.mkv large.mkv --interpolate 1 --upscale 2 --codec libx265 --crf 20
  upframe run photo.png large.png --upscale 4
  upframe run 'frames_%05d.png' film.mp4 --framerate 24 --upscale 2
  upframe run film.mkv scene.mp4 --start 1:30 --duration 20 --interpolate 1
  upframe run rtsp://camera/stream rtsp://server/smooth --interpolate 1

The output gets its name only when it is complete and verified. A live stream
ends well by Ctrl-C, SIGTERM or --duration; --help-all shows its options.
"""


def _run(parser: Parser) -> None:
    parser.description = (
        "Interpolate and enlarge a video file, a still, an image sequence or a live stream.\n"
        "Sound, subtitles, chapters and metadata are kept; of live streams the sound."
    )
    parser.usage = "%(prog)s input output [options]"
    parser.epilog = _EPILOG_OF_RUN
    parser.show_often(*_OFTEN, *_WATCHING)
    parser.add_argument(
        "input",
        type=location,
        help="The input: a file, a sequence such as 'in_%%05d.png', or a live address.",
    )
    parser.add_argument(
        "output",
        type=location,
        help="The output: a file, a numbered sequence, or an address to publish to.",
    )
    add_filter_arguments(parser)
    add_options(parser.add_argument_group("encoder"), EncoderOptions)
    group = parser.add_argument_group("input and output")
    add_options(group, ConversionOptions)
    add_options(group, StreamSpec, "tls_insecure")
    group.add_argument(
        "--no-resume",
        action="store_true",
        help="Begin anew even if an earlier run was broken off, and keep nothing if this one is.",
    )
    group = parser.add_argument_group(
        "live streams",
        "An input or output such as rtsp://… makes it one: in real time, until stopped.",
    )
    group.add_argument(
        "--live",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="Treat the input as a live stream, or with --no-live as a file, whatever the "
        "addresses say.",
    )
    add_options(group, StreamSpec, *OF_STREAMS)
    add_options(parser.add_argument_group("device and weights"), RuntimeOptions)
    add_progress_arguments(parser)


_EPILOG_OF_RESUME = """\
examples:
  upframe resume large.mkv

A run that was broken off has left its finished segments in a folder beside the output, such as
.large.mkv.upframe. The same command line resumes it, too. --overwrite and --report are not
remembered: give them again. `upframe doctor` lists what was left
behind, `upframe jobs clean` removes it.
"""


def _resume(parser: Parser) -> None:
    parser.description = "Continue a run that was broken off, with the options it was given."
    parser.epilog = _EPILOG_OF_RESUME
    parser.add_argument("output", type=location, help="The output of that run.")
    add_options(parser, ConversionOptions, "overwrite")
    add_progress_arguments(parser)


_EPILOG_OF_PIPE = """\
examples (set -o pipefail, so that a failure anywhere is seen; sound comes from the original file,
and raw streams such as .hevc and .ivf hold none):
  ffmpeg -v error -i in.mkv -f yuv4mpegpipe -strict -1 - | upframe pipe --interpolate 1 \\
    | ffmpeg -i - -i in.mkv -map 0:v -map '1:a?' -c:a copy -c:v libx264 -crf 18 out.mp4
  vspipe -c y4m script.vpy - | upframe pipe --interpolate 1 | x265 --y4m --input - -o out.hevc
  ffmpeg -v error -i in.mkv -f yuv4mpegpipe -strict -1 - | upframe pipe --interpolate 1 \\
    | SvtAv1EncApp -i stdin -b out.ivf
  ffmpeg -v error -i in.mkv -f nut -c:v rawvideo - | upframe pipe --interpolate 1 \\
    | mpv --audio-file=in.mkv -

y4m has a constant rate and, of colour, only the range. nut keeps time stamps, but no colour.
matroska keeps both; more than 8 bits are FFV1 there. A reader that closes stdout early ends
the work with one line and code 141; an input that ends inside a frame with code 65.
N frames become (N-1)*2^EXP+1; the last one is not repeated.
"""


def _pipe(parser: Parser) -> None:
    parser.description = (
        "Interpolate and enlarge a stream between two programs: stdin and stdout carry the video. "
        "Progress, warnings and errors go to stderr."
    )
    parser.usage, parser.epilog = "%(prog)s [options]", _EPILOG_OF_PIPE
    parser.show_often("interpolate", "upscale", "container", "device", "weights", *_WATCHING)
    add_filter_arguments(parser)
    group = parser.add_argument_group("input and output")
    add_options(group, PipeOptions, *PipeOptions.__annotations__, "deinterlace")
    add_options(parser.add_argument_group("device and weights"), RuntimeOptions)
    add_progress_arguments(parser)
    refuse_options(parser, "pipe")


_EPILOG_OF_PROBE = """\
examples:
  upframe probe film.mkv                                 what it is
  upframe probe film.mkv out.mp4                         and what is kept, and what is lost
  upframe probe film.mkv --interpolate 1 --upscale 2     and how long that would take here
"""


def _probe(parser: Parser) -> None:
    parser.description = (
        "Describe an input: its streams, whether its rate is constant, whether it is interlaced, "
        "rotated or HDR. With an output, describe what becomes of every stream, and what is "
        "lost. With filters, describe the result, and estimate the time from a few real frames."
    )
    parser.epilog = _EPILOG_OF_PROBE
    parser.add_argument(
        "input",
        type=location,
        help="The input: a file, a URL, or a sequence such as 'in_%%05d.png'.",
    )
    parser.add_argument("output", type=location, nargs="?", help="The file that would be written.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.add_argument(
        "--no-estimate", action="store_true", help="Load no weights and run no filter."
    )
    add_options(parser, ConversionOptions, "container", "audio_codec", "framerate", "overwrite")
    add_options(parser, PartOptions)
    add_options(parser, StreamSpec, "tls_insecure")
    add_filter_arguments(parser)
    add_options(parser.add_argument_group("encoder of the output"), EncoderOptions)
    add_options(parser.add_argument_group("device and weights"), RuntimeOptions)


_EPILOG_OF_VERIFY = """\
examples:
  upframe verify smooth.mp4                            readable, every frame with a time of its own
  upframe verify smooth.mp4 --decode                   and every frame decodes
  upframe verify smooth.mp4 --against film.mp4         and frames, duration, tags and sound agree;
                                                       what else is lost is listed
  upframe verify smooth.mp4 --report report.json       and it is what the report of its run says

Ends with 0 if all is well, 70 if something is not, 65 or 66 if the file cannot be read at all.
"""


def _verify(parser: Parser) -> None:
    parser.description = "Read a finished file, and check that it is complete and correct."
    parser.epilog = _EPILOG_OF_VERIFY
    parser.add_argument("output", type=location, help="The file to check.")
    parser.add_argument(
        "--against", type=location, metavar="INPUT", help="The file that it was made from."
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="The report of the run.")
    parser.add_argument("--decode", action="store_true", help="Decode every frame.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


_EPILOG_OF_MODELS = """\
examples:
  upframe models list
  upframe models pull                          the default weights of both filters
  upframe models pull owner/name:file.pth
  upframe models check file.pth folder builtin

Names are those of the model path options: a file, a folder, owner/name, owner/name:file, builtin.
The environment variables HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE apply.

exit codes: 0 done · 65 not weights of a filter here · 69 unavailable
"""


def _models(parser: Parser) -> None:
    parser.description = (
        "Weights of the filters: list those on this machine, fetch others from the hub, or "
        "identify a file."
    )
    parser.epilog = _EPILOG_OF_MODELS
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = _action(actions, "list", "List built-in, default and cached weights.")
    listing.add_argument("--json", action="store_true", help="Print JSON.")
    _action(actions, "pull", "Fetch weights from the hub into its cache.").add_argument(
        "name", nargs="*", help="Names such as owner/name:file. Default: those of both filters."
    )
    _action(actions, "check", "Load weights strictly and identify them.").add_argument(
        "name", nargs="+", help="A file, a folder, a hub name, or 'builtin'."
    )


def _action(actions: Any, name: str, text: str) -> Parser:
    return actions.add_parser(name, help=text, description=text)


_EPILOG_OF_SERVE = """\
examples:
  upframe serve --check --config upframe.toml
  upframe serve --config /etc/upframe/upframe.toml

signals: SIGTERM and SIGINT drain: what runs gets [jobs] drain_seconds to end, the rest stays
queued, and live streams complete their files; a second one stops at once, and no job is lost
either way. SIGHUP reads the file again.

exit codes: 0 drained · 69 weights or device unavailable, with --check also the broker
73 the state directory cannot be created · 75 another daemon has the state directory
78 configuration · 130/143 stopped at once
"""


def _serve(parser: Parser) -> None:
    parser.description = (
        "Run jobs from watched folders, from MQTT and from `upframe jobs submit`, and keep live "
        "streams running, until a signal. systemd/INSTALL.md describes how to run it as a service."
    )
    parser.epilog = _EPILOG_OF_SERVE
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        required=True,
        help="Configuration, as in systemd/upframe.toml.",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="Only check file, folders, streams, encoders, devices, weights and broker.",
    )


ROWS = 50
"""Of the table of jobs, unless more are asked for."""
_ID: dict[str, Any] = {"metavar": "ID", "help": "The id of a job, or its beginning."}

_EPILOG_OF_JOBS = """\
examples:
  upframe jobs submit film.mkv large.mkv --interpolate 1 --upscale 2
  upframe jobs list
  upframe jobs watch
  upframe jobs show film-3f9a1c
  upframe jobs retry --failed
  upframe jobs clean ~/films

The beginning of an id is enough where no other id begins so. The daemon is found by --config or
--socket, else in /var/lib/upframe, else wherever one listens on this machine. If none is running,
list and show read its store.

exit codes: 0 done · 64 the state of the job does not allow it · 66 no such job or input
69 no daemon · 73 the output exists or its folder does not · 74 the store cannot be read
"""


def _jobs(parser: Parser) -> None:
    parser.description = "Submit, list, follow and cancel jobs of the daemon `upframe serve`."
    parser.epilog = _EPILOG_OF_JOBS
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_submit(_daemon_action(actions, "submit", "Give the daemon a job, and print its id."))
    listing = _daemon_action(actions, "list", "List jobs: running, queued, then ended.")
    listing.add_argument(
        "--state",
        action="append",
        choices=get_args(State),
        help="List jobs in this state. The option may be repeated.",
    )
    listing.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help=f"List N jobs, 0 for all. Default: {ROWS}; all as JSON.",
    )
    _daemon_action(actions, "show", "Show a job.").add_argument("id", **_ID)
    _daemon_action(actions, "cancel", "Cancel a job.").add_argument("id", **_ID)
    retry = _daemon_action(actions, "retry", "Queue a failed or cancelled job again.")
    retry.add_argument("id", nargs="?", **_ID)
    retry.add_argument("--failed", action="store_true", help="Queue all failed jobs again.")
    watch = _daemon_action(actions, "watch", "Follow all jobs, or some until they have ended.")
    watch.add_argument("ids", nargs="*", **_ID)
    _daemon_action(
        actions,
        "folders",
        "List the files of watched folders that wait, failed or were skipped, with the reason.",
    )
    _daemon_action(actions, "status", "Show the status of the daemon as JSON.")
    text = "Remove what runs that were broken off have kept to be resumed, and say so."
    clean = _action(actions, "clean", text)
    clean.add_argument(
        "folders",
        nargs="*",
        type=Path,
        default=[Path()],
        metavar="FOLDER",
        help="A folder of outputs. Default: the current one.",
    )
    clean.add_argument("--json", action="store_true", help="Print JSON.")


def _daemon_action(actions: Any, name: str, text: str) -> Parser:
    parser = _action(actions, name, text)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="Find the daemon by its configuration."
    )
    parser.add_argument("--socket", type=Path, metavar="FILE", help="Find it by its socket.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    return parser


def _add_submit(parser: Parser) -> None:
    parser.usage = "%(prog)s source sink [options]"
    parser.show_often(*_OFTEN[:-1], "priority", "id", "config", "socket", "json")
    for name in ("source", "sink"):
        parser.add_argument(name, help=ConversionSpec.model_fields[name].description)
    add_options(parser, NewJob, "id", "priority")
    add_filter_arguments(parser)
    add_options(parser.add_argument_group("encoder"), EncoderOptions)
    add_options(parser.add_argument_group("input and output"), ConversionOptions)
    refuse_options(parser, "job")


_EPILOG_OF_DOCTOR = """\
Every line is OK, warn (something is missing that only some work needs) or FAIL (the main job,
making a video smoother and larger, cannot run here). Without --online no network is asked.

exit codes: 0 the main job runs · 69 it does not
"""


def _doctor(parser: Parser) -> None:
    parser.description = (
        "Look at versions, devices, memory, codecs and weights, then make a tiny "
        "video smoother and larger to see whether that works."
    )
    parser.epilog = _EPILOG_OF_DOCTOR
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.add_argument(
        "--online", action="store_true", help="Check that the hub is reachable, too."
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="Check this configuration for risks, too."
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="Measure again which way of computing a network is the fastest on this CPU.",
    )


def _demo(parser: Parser) -> None:
    parser.description = """\
Draw a short clip with sound, double its frame rate and its size with the built-in starter
weights, and put a frame of before and after side by side. Needs no network and no files.
An earlier demo in the same folder is replaced.
"""
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("upframe-demo"),
        metavar="FOLDER",
        help="Folder of the results; created if missing. Default: upframe-demo.",
    )


_SIZES = "320x180,640x360,1280x720,1920x1080"
_EPILOG_OF_BENCH = """\
examples:
  upframe bench
  upframe bench --sizes 1920x1080 --upscale 4 --upscaling-model-path realesr-animevideov3.pth
  upframe bench --device cuda --json

Without a filter, the frame rate and the size are doubled. Reading, writing and encoding a file come
on top. Run it on an idle machine.

exit codes: 0 done · 64 usage · 65 wrong weights file · 69 weights or device not available
"""


def _bench(parser: Parser) -> None:
    parser.description = "Measure how many frames a second the filters compute on this machine."
    parser.epilog = _EPILOG_OF_BENCH
    # everything after the first word that is no option: what was a subcommand, with its options
    parser.add_argument("moved", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    parser.add_argument(
        "--sizes", default=_SIZES, metavar="WxH,…", help=f"Sizes of the input ({_SIZES})."
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=3.0,
        help="Time for each row, except that three frames are always measured (%(default)g).",
    )
    add_filter_arguments(parser)
    add_options(parser.add_argument_group("device and weights"), RuntimeOptions)


_EPILOG_OF_COMPLETION = """\
bash, in ~/.bashrc:           source <(upframe completion bash)
zsh, after compinit:          source <(upframe completion zsh)
fish:                         upframe completion fish > ~/.config/fish/completions/upframe.fish
"""


def _completion(parser: Parser) -> None:
    parser.description = "Print a script that lets a shell complete commands, options and values."
    parser.epilog = _EPILOG_OF_COMPLETION
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="The shell.")


ARGUMENTS: Mapping[str, Callable[[Parser], None]] = {
    "run": _run,
    "resume": _resume,
    "pipe": _pipe,
    "probe": _probe,
    "verify": _verify,
    "models": _models,
    "serve": _serve,
    "jobs": _jobs,
    "doctor": _doctor,
    "demo": _demo,
    "bench": _bench,
    "completion": _completion,
}
"""By command: adds its arguments to a parser, and its help."""
