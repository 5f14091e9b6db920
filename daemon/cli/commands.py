"""What each command accepts: its arguments, its help and its examples.

The commands themselves are modules beside this one, which load torch, codecs or the daemon. This
one loads none of them, so that help, errors and completion come at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
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

Arguments = Callable[[Parser], None]

ARGUMENTS: dict[str, Arguments] = {}
"""By command: adds its arguments to a parser, and its help."""

_OFTEN = ("interpolate", "upscale", "codec", "crf", "preset", "overwrite", "device")
"""Fields of the options that people use; the others are shown by --help-all."""
_WATCHING = ("progress", "report")

_SHARED = ("input", "output", "container", "tls_insecure", *DeviceOptions.model_fields)
"""Options of live streams that files have too."""
OF_STREAMS = tuple(
    name for name in StreamSpec.model_fields if name not in (*ConversionSpec.model_fields, *_SHARED)
)
"""Fields of the options that only live streams have."""
ROWS = 50
"""Of the table of jobs, unless more are asked for."""


def _command(text: str) -> Callable[[Arguments], Arguments]:
    """Give a command its help: before the first empty line what it does, the rest at the end."""

    def of(add: Arguments) -> Arguments:
        def fill(parser: Parser) -> None:
            parser.description, _, parser.epilog = text.partition("\n\n")
            add(parser)

        ARGUMENTS[add.__name__.removeprefix("_")] = fill
        return fill

    return of


def _add_json(parser: Parser, text: str = "Print JSON.") -> None:
    parser.add_argument("--json", action="store_true", help=text)


def _add_file(parser: Parser, option: str, text: str, *, required: bool = False) -> None:
    parser.add_argument(option, type=Path, metavar="FILE", required=required, help=text)


@_command("""\
Interpolate and enlarge a video file, a still, an image sequence or a live stream.
Sound, subtitles, chapters and metadata are kept; of live streams the sound.

examples:
  upframe run film.mp4 smooth.mp4 --interpolate 1
  upframe run film.mkv large.mkv --interpolate 1 --upscale 2 --codec libx265 --crf 20
  upframe run photo.png large.png --upscale 4
  upframe run 'frames_%05d.png' film.mp4 --framerate 24 --upscale 2
  upframe run film.mkv scene.mp4 --start 1:30 --duration 20 --interpolate 1
  upframe run rtsp://camera/stream rtsp://server/smooth --interpolate 1

The output gets its name only when it is complete and verified. A live stream
ends well by Ctrl-C, SIGTERM or --duration; --help-all shows its options.
""")
def _run(parser: Parser) -> None:
    parser.usage = "%(prog)s input output [options]"
    parser.show_often(*_OFTEN, *_WATCHING)
    text = "The input: a file, a sequence such as 'in_%%05d.png', or a live address."
    parser.add_argument("input", type=location, help=text)
    text = "The output: a file, a numbered sequence, or an address to publish to."
    parser.add_argument("output", type=location, help=text)
    add_filter_arguments(parser)
    add_options(parser.add_argument_group("encoder"), EncoderOptions)
    group = parser.add_argument_group("input and output")
    add_options(group, ConversionOptions)
    add_options(group, StreamSpec, "tls_insecure")
    text = "Begin anew even if an earlier run was broken off, and keep nothing if this one is."
    group.add_argument("--no-resume", action="store_true", help=text)
    text = "Where a film is made: local, or ray[:ADDRESS], a cluster. Default: local."
    group.add_argument("--executor", type=_executor, default="local", metavar="WHERE", help=text)
    text = "An input or output such as rtsp://… makes it one: in real time, until stopped."
    group = parser.add_argument_group("live streams", text)
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


def _executor(text: str) -> str:
    if text != "local" and text.partition(":")[0] != "ray":
        raise argparse.ArgumentTypeError(f"wanted local or ray[:ADDRESS], got {text!r}")
    return text


@_command("""\
Continue a run that was broken off, with the options it was given.

examples:
  upframe resume large.mkv

A run that was broken off has left its finished segments in a folder beside the output, such as
.large.mkv.upframe. The same command line resumes it, too. --overwrite and --report are not
remembered: give them again. `upframe doctor` lists what was left
behind, `upframe jobs clean` removes it.
""")
def _resume(parser: Parser) -> None:
    parser.add_argument("output", type=location, help="The output of that run.")
    add_options(parser, ConversionOptions, "overwrite")
    add_progress_arguments(parser)


@_command("""\
Interpolate and enlarge a stream between two programs: stdin and stdout carry the video.
Progress, warnings and errors go to stderr.

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
""")
def _pipe(parser: Parser) -> None:
    parser.usage = "%(prog)s [options]"
    parser.show_often("interpolate", "upscale", "container", "device", "weights", *_WATCHING)
    add_filter_arguments(parser)
    group = parser.add_argument_group("input and output")
    add_options(group, PipeOptions, *PipeOptions.__annotations__, "deinterlace")
    add_options(parser.add_argument_group("device and weights"), RuntimeOptions)
    add_progress_arguments(parser)
    refuse_options(parser, "pipe")


@_command("""\
Describe an input: its streams, whether its rate is constant, whether it is interlaced, rotated or
HDR. With an output, describe what becomes of every stream, and what is lost. With filters, describe
the result, and estimate the time from a few real frames.

examples:
  upframe probe film.mkv                                 what it is
  upframe probe film.mkv out.mp4                         and what is kept, and what is lost
  upframe probe film.mkv --interpolate 1 --upscale 2     and how long that would take here
""")
def _probe(parser: Parser) -> None:
    text = "The input: a file, a URL, or a sequence such as 'in_%%05d.png'."
    parser.add_argument("input", type=location, help=text)
    parser.add_argument("output", type=location, nargs="?", help="The file that would be written.")
    _add_json(parser)
    text = "Load no weights and run no filter."
    parser.add_argument("--no-estimate", action="store_true", help=text)
    add_options(parser, ConversionOptions, "container", "audio_codec", "framerate", "overwrite")
    add_options(parser, PartOptions)
    add_options(parser, StreamSpec, "tls_insecure")
    add_filter_arguments(parser)
    add_options(parser.add_argument_group("encoder of the output"), EncoderOptions)
    add_options(parser.add_argument_group("device and weights"), RuntimeOptions)


@_command("""\
Read a finished file, and check that it is complete and correct.

examples:
  upframe verify smooth.mp4                            readable, every frame with a time of its own
  upframe verify smooth.mp4 --decode                   and every frame decodes
  upframe verify smooth.mp4 --against film.mp4         and frames, duration, tags and sound agree;
                                                       what else is lost is listed
  upframe verify smooth.mp4 --report report.json       and it is what the report of its run says

Ends with 0 if all is well, 70 if something is not, 65 or 66 if the file cannot be read at all.
""")
def _verify(parser: Parser) -> None:
    parser.add_argument("output", type=location, help="The file to check.")
    text = "The file that it was made from."
    parser.add_argument("--against", type=location, metavar="INPUT", help=text)
    _add_file(parser, "--report", "The report of the run.")
    parser.add_argument("--decode", action="store_true", help="Decode every frame.")
    _add_json(parser)


@_command("""\
Weights of the filters: list those on this machine, fetch others from the hub, or identify a file.

examples:
  upframe models list
  upframe models pull                          the default weights of both filters
  upframe models pull owner/name:file.pth
  upframe models check file.pth folder builtin

Names are those of the model path options: a file, a folder, owner/name, owner/name:file, builtin.
The environment variables HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE apply.

exit codes: 0 done · 65 not weights of a filter here · 69 unavailable
""")
def _models(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_json(_action(actions, "list", "List built-in, default and cached weights."))
    _action(actions, "pull", "Fetch weights from the hub into its cache.").add_argument(
        "name", nargs="*", help="Names such as owner/name:file. Default: those of both filters."
    )
    _action(actions, "check", "Load weights strictly and identify them.").add_argument(
        "name", nargs="+", help="A file, a folder, a hub name, or 'builtin'."
    )


def _action(actions: Any, name: str, text: str) -> Parser:
    return actions.add_parser(name, help=text, description=text)


@_command("""\
Run jobs from watched folders, from MQTT and from `upframe jobs submit`, and keep live streams
running, until a signal. systemd/INSTALL.md describes how to run it as a service.

examples:
  upframe serve --check --config upframe.toml
  upframe serve --config /etc/upframe/upframe.toml

signals: SIGTERM and SIGINT drain: what runs gets [jobs] drain_seconds to end, the rest stays
queued, and live streams complete their files; a second one stops at once, and no job is lost
either way. SIGHUP reads the file again.

exit codes: 0 drained · 69 weights or device unavailable, with --check also the broker
73 the state directory cannot be created · 75 another daemon has the state directory
78 configuration · 130/143 stopped at once
""")
def _serve(parser: Parser) -> None:
    _add_file(parser, "--config", "Configuration, as in systemd/upframe.toml.", required=True)
    text = "Only check file, folders, streams, encoders, devices, weights and broker."
    parser.add_argument("--check", action="store_true", help=text)


@_command("""\
Submit, list, follow and cancel jobs of the daemon `upframe serve`.

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
""")
def _jobs(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    parsers = {name: _action(actions, name, text) for name, text in _ACTIONS.items()}
    for name, action in parsers.items():
        if name != "clean":
            _add_file(action, "--config", "Find the daemon by its configuration.")
            _add_file(action, "--socket", "Find it by its socket.")
        _add_json(action)
    _add_submit(parsers["submit"])
    text = "List jobs in this state. The option may be repeated."
    parsers["list"].add_argument("--state", action="append", choices=get_args(State), help=text)
    text = f"List N jobs, 0 for all. Default: {ROWS}; all as JSON."
    parsers["list"].add_argument("--limit", type=int, metavar="N", help=text)
    ids = {
        "show": ("id", None),
        "cancel": ("id", None),
        "retry": ("id", "?"),
        "watch": ("ids", "*"),
    }
    for name, (dest, nargs) in ids.items():
        text = "The id of a job, or its beginning."
        parsers[name].add_argument(dest, nargs=nargs, metavar="ID", help=text)
    parsers["retry"].add_argument(
        "--failed", action="store_true", help="Queue all failed jobs again."
    )
    text = "A folder of outputs. Default: the current one."
    parsers["clean"].add_argument(
        "folders", nargs="*", type=Path, default=[Path()], metavar="FOLDER", help=text
    )


_ACTIONS = {
    "submit": "Give the daemon a job, and print its id.",
    "list": "List jobs: running, queued, then ended.",
    "show": "Show a job.",
    "cancel": "Cancel a job.",
    "retry": "Queue a failed or cancelled job again.",
    "watch": "Follow all jobs, or some until they have ended.",
    "folders": "List the files of watched folders that wait, failed or were skipped, and why.",
    "status": "Show the status of the daemon as JSON.",
    "clean": "Remove what runs that were broken off have kept to be resumed, and say so.",
}


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


@_command("""\
Look at versions, devices, memory, codecs and weights, then make a tiny video smoother and larger to
see whether that works.

Every line is OK, warn (something is missing that only some work needs) or FAIL (the main job,
making a video smoother and larger, cannot run here). Without --online no network is asked.

exit codes: 0 the main job runs · 69 it does not
""")
def _doctor(parser: Parser) -> None:
    _add_json(parser)
    text = "Check that the hub is reachable, too."
    parser.add_argument("--online", action="store_true", help=text)
    _add_file(parser, "--config", "Check this configuration for risks, too.")
    text = "Measure again which way of computing a network is the fastest on this CPU."
    parser.add_argument("--measure", action="store_true", help=text)


@_command("""\
Look at the nodes of a Ray cluster: what they compute with, their versions, how fast they are, which
folders they see, and whether they could work on films together with this machine.

examples:
  upframe cluster doctor 10.0.0.1:6379 /mnt/films

systemd/CLUSTER.md describes how to run one.

exit codes: 0 some node can work · 69 none can, or there is no cluster
""")
def _cluster(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    doctor = _action(actions, "doctor", "List the nodes.")
    doctor.add_argument("address", metavar="ADDRESS", help="Of its head, such as 10.0.0.1:6379.")
    doctor.add_argument("folders", nargs="*", metavar="FOLDER", help="Whether each node sees it.")
    _add_json(doctor)


@_command("""\
Draw a short clip with sound, double its frame rate and its size with the built-in starter
weights, and put a frame of before and after side by side. Needs no network and no files.
An earlier demo in the same folder is replaced.
""")
def _demo(parser: Parser) -> None:
    folder, text = Path("upframe-demo"), "Folder of the results; created if missing. Default: "
    parser.add_argument(
        "folder", nargs="?", type=Path, default=folder, metavar="FOLDER", help=f"{text}{folder}."
    )


_SIZES = "320x180,640x360,1280x720,1920x1080"


@_command("""\
Measure how many frames a second the filters compute on this machine.

examples:
  upframe bench
  upframe bench --sizes 1920x1080 --upscale 4 --upscaling-model-path realesr-animevideov3.pth
  upframe bench --device cuda --json

Without a filter, the frame rate and the size are doubled. Reading, writing and encoding a file come
on top. Run it on an idle machine.

exit codes: 0 done · 64 usage · 65 wrong weights file · 69 weights or device not available
""")
def _bench(parser: Parser) -> None:
    # everything after the first word that is no option: what was a subcommand, with its options
    parser.add_argument("moved", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    _add_json(parser, "Print JSON instead of a table.")
    text = f"Sizes of the input ({_SIZES})."
    parser.add_argument("--sizes", default=_SIZES, metavar="WxH,…", help=text)
    text = "Time for each row, except that three frames are always measured (%(default)g)."
    parser.add_argument("--seconds", type=float, default=3.0, help=text)
    add_filter_arguments(parser)
    add_options(parser.add_argument_group("device and weights"), RuntimeOptions)


@_command("""\
Print a script that lets a shell complete commands, options and values.

bash, in ~/.bashrc:           source <(upframe completion bash)
zsh, after compinit:          source <(upframe completion zsh)
fish:                         upframe completion fish > ~/.config/fish/completions/upframe.fish
""")
def _completion(parser: Parser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="The shell.")
