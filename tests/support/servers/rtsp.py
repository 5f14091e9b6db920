"""An RTSP server as a program of its own: it plays a camera, and takes what is published.

It needs GStreamer's bindings, and therefore the system's Python; camera.py starts it.
It prints `ready PORT` as soon as it listens, and ends when its stdin does.

    /camera   H.264 of a moving ball, a keyframe a second, with AAC where --sound is given
    /deaf     AAC alone: a stream without video
    /in       takes one published stream, and writes it to the file of --record, as MPEG-TS
"""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction

try:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtsp", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtsp, GstRtspServer
except (ImportError, ValueError) as error:
    sys.stderr.write(f"missing: {error}\n")
    sys.exit(3)

ELEMENTS = (
    *("videotestsrc", "x264enc", "rtph264pay", "rtph264depay", "h264parse"),
    *("audiotestsrc", "voaacenc", "rtpmp4gpay", "rtpmp4gdepay", "aacparse"),
    *("mpegtsmux", "filesink"),
)
PICTURE = (
    "videotestsrc is-live=true pattern=ball motion=sweep "
    "! video/x-raw,format=I420,width={width},height={height},framerate={rate} "
    "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max={gop} "
    "! rtph264pay name=pay0 pt=96 config-interval=-1"
)
SOUND = (
    "audiotestsrc is-live=true wave=ticks samplesperbuffer=1024 "
    "! audio/x-raw,rate=48000,channels=2 ! voaacenc bitrate=64000 ! rtpmp4gpay name=pay{pad} pt=97"
)
TAKEN_PICTURE = "rtph264depay name=depay0 ! h264parse ! mux."
TAKEN_SOUND = "rtpmp4gdepay name=depay1 ! aacparse ! mux."
TAKEN = "mpegtsmux name=mux ! filesink sync=false buffer-mode=unbuffered location={path}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", default="0")
    parser.add_argument("--size", default="160x90")
    parser.add_argument("--rate", type=Fraction, default=Fraction(15))
    parser.add_argument("--sound", action="store_true")
    parser.add_argument("--record")
    parser.add_argument("--login", help="USER:PASSWORD that everything asks for")
    parser.add_argument("--tcp-only", action="store_true")
    parser.add_argument("--probe", action="store_true", help="only see whether all is there")
    asked = parser.parse_args()
    Gst.init(None)
    missing = [name for name in ELEMENTS if Gst.ElementFactory.find(name) is None]
    if missing:
        sys.stderr.write(f"missing: GStreamer's {', '.join(missing)}\n")
        return 3
    if asked.probe:
        return 0
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=asked.port)
    mount_all(server, asked)
    if not server.attach(None):
        sys.stderr.write(f"port {asked.port} is taken\n")
        return 1
    sys.stdout.write(f"ready {server.get_bound_port()}\n")
    sys.stdout.flush()
    loop = GLib.MainLoop()
    GLib.io_add_watch(0, GLib.IO_HUP | GLib.IO_IN, lambda *_: loop.quit())
    loop.run()
    return 0


def mount_all(server: GstRtspServer.RTSPServer, asked: argparse.Namespace) -> None:
    role = protect(server, asked.login) if asked.login else None
    width, height = asked.size.split("x")
    rate = f"{asked.rate.numerator}/{asked.rate.denominator}"
    picture = PICTURE.format(width=width, height=height, rate=rate, gop=max(1, round(asked.rate)))
    sound = SOUND.format(pad=1) if asked.sound else ""
    factories = {
        "/camera": factory_of(f"{picture} {sound}"),
        "/deaf": factory_of(SOUND.format(pad=0)),
    }
    if asked.record:
        taken = f"{TAKEN_PICTURE} {TAKEN_SOUND if asked.sound else ''}"
        factories["/in"] = factory_of(f"{TAKEN.format(path=asked.record)} {taken}", record=True)
    for path, factory in factories.items():
        if asked.tcp_only:
            factory.set_protocols(GstRtsp.RTSPLowerTrans.TCP)
        if role is not None:
            factory.add_role_from_structure(everything_for(role))
        server.get_mount_points().add_factory(path, factory)


def factory_of(launch: str, *, record: bool = False) -> GstRtspServer.RTSPMediaFactory:
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( {launch} )")
    factory.set_shared(not record)
    if record:
        factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
    return factory


def protect(server: GstRtspServer.RTSPServer, login: str) -> str:
    """Let in only whoever knows the password; gives the name of their role."""
    user, _, password = login.partition(":")
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", user)
    auth = GstRtspServer.RTSPAuth()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    return user


def everything_for(role: str) -> Gst.Structure:
    structure = Gst.Structure.new_empty(role)
    for right in ("media.factory.access", "media.factory.construct"):
        structure.set_value(right, True)
    return structure


if __name__ == "__main__":
    sys.exit(main())
