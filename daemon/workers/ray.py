"""The driver of a cluster: the one process that loads Ray, which lends the nodes to films.

It is a child of `run` and inherits the connection of one film, or of the daemon and inherits a
socket to which films connect. The first line of a connection is a :class:`NodeFilm`, all others are
orders, ``{"slot": N, "line": …}``. The driver answers with ``[kind, slot, text]``: a process is
`lent`, on the node of that name; it has `said` a line; it has `ended`; a node is `refused`; or all
are, and the cluster is `absent`.

Each share of a node, a card or the cores of one process, is an actor there. A share is lent to the
film that came first of those that have work for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from ...io.child import exit_text, kill_on_parent_death
from ...io.redaction import one_line
from ..backoff import STORE_STEPS, Backoff
from ..errors import ClusterAbsent
from ..exits import Exit
from .ray_node import NodeFilm, NodeWorker

log = logging.getLogger("upframe.work")

SOCKET = "cluster.sock"
"""Of the daemon's driver, in the state directory."""
_LINE_BYTES = 64 << 20
_PIECE_BYTES = 16 << 20
"""Of a film or segment, in one call: those of all shares must fit into Ray's store together."""
_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 60.0
"""For a call, which may wait for its actor to be started again; and for the head."""
_END_SECONDS = 10.0
_MOST_DEATHS = 3
"""Of a film's processes on a node without a result, before the film goes on without it."""


def check_cluster(address: str) -> str:
    """Return the address of a cluster that demands a token, by default that of this machine.

    Raises:
        ClusterAbsent: if there is none, or it does not demand one.
    """
    if find_spec("ray") is None:
        raise ClusterAbsent("Ray is not installed: pip install 'upframe[ray]'")
    with suppress(OSError):
        folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
        known = Path(folder, "ray", "ray_current_cluster")
        address = address or os.environ.get("RAY_ADDRESS") or known.read_text().strip()
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _END_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ClusterAbsent(f"no cluster answers at {address or 'ray:ADDRESS'}: {error}") from error

    try:
        if not _lets_in(address, "token"):
            text = "refuses us: wanted its token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
            raise ClusterAbsent(f"the cluster at {address} {text}, and the same Ray")
        if _lets_in(address, "disabled"):
            text = "is open to everybody: start all its nodes with RAY_AUTH_MODE=token"
            raise ClusterAbsent(f"the cluster at {address} {text}")
    except subprocess.TimeoutExpired as error:
        raise ClusterAbsent(f"the cluster at {address} does not answer") from error
    return address


def _lets_in(address: str, mode: str) -> bool:
    words = [sys.executable, "-P", "-m", "ray.scripts.scripts", "health-check", "--address"]
    environment, nowhere = {**os.environ, "RAY_AUTH_MODE": mode}, subprocess.DEVNULL
    asked = [*words, address]
    return not subprocess.call(
        asked, env=environment, stdout=nowhere, stderr=nowhere, timeout=_ANSWER_SECONDS
    )


def _command(address: str, threads: int, films: socket.socket) -> list[str]:
    given = (os.getpid(), address, threads, films.fileno())
    return [sys.executable, "-P", "-m", "upframe.daemon.workers.ray", *map(str, given)]


@contextmanager
def driver_of(address: str, threads: int) -> Generator[socket.socket]:
    """Run a driver for one film; the socket is that of its `ClusterCrew`."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        driver = subprocess.Popen(
            _command(address, threads, theirs),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # what matters comes by the socket
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is for us to decide on
        )
        theirs.close()
        try:
            yield ours
        finally:
            driver.kill()
            driver.wait()


def _listening(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    films = socket.create_server(str(path), family=socket.AF_UNIX)
    path.chmod(0o600)
    return films


async def keep_driver(address: str, path: Path) -> None:
    """Run a driver for films that connect to a path, and another one when it ends.

    It ends with our process, too.
    """
    threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
    backoff, nowhere = Backoff(STORE_STEPS), asyncio.subprocess.DEVNULL
    with _listening(path) as films:  # where they wait for the next one
        while True:
            driver = await asyncio.create_subprocess_exec(
                *_command(address, threads, films),
                stdin=nowhere,
                stdout=nowhere,
                pass_fds=[films.fileno()],
                start_new_session=True,
            )
            log.error("the driver of the cluster %s", exit_text(await driver.wait()))
            await asyncio.sleep(backoff.next_seconds())


def connect(path: Path) -> socket.socket:
    """Connect to the daemon's driver; an OSError if it keeps none."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    return connection


def main() -> NoReturn:
    """Lend the nodes of a cluster, until the film is gone or the cluster is."""
    parent, address, threads, descriptor = sys.argv[1:]
    if kill_on_parent_death(int(parent)):
        asyncio.run(_work(address, int(threads), socket.socket(fileno=int(descriptor))))
    os._exit(Exit.UNAVAILABLE)


async def _work(address: str, threads: int, films: socket.socket) -> NoReturn:
    """Serve films, and end the process: threads of Ray may hang where its head is gone."""
    is_one = not films.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    try:
        if not is_one:  # `run` has done so
            address = await asyncio.to_thread(check_cluster, address)
        driver = Driver(load_ray(address), threads)
        watching = asyncio.create_task(driver.watch(), name="nodes")
        if is_one:
            connection = await asyncio.open_connection(sock=films, limit=_LINE_BYTES)
            serving = asyncio.create_task(driver.serve(*connection), name="film")
            await asyncio.wait((serving, watching), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                os._exit(Exit.OK)
        else:
            await asyncio.start_unix_server(driver.serve, sock=films, limit=_LINE_BYTES)
        await watching
    except BaseException as error:
        text = f"the cluster at {address} is lost: {one_line(error, 300)}"
        sys.stderr.write(f"{text}\n")
        if is_one:
            with suppress(OSError):
                films.sendall(json.dumps(["absent", 0, text]).encode() + b"\n")
    os._exit(Exit.UNAVAILABLE)


def load_ray(address: str) -> Any:
    """Connect to a cluster, and return Ray; a ClusterAbsent if no node of it is on this machine."""
    os.environ["RAY_AUTH_MODE"] = "token"
    ray: Any = importlib.import_module("ray")
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
        raise ClusterAbsent(f"cannot join the cluster at {address}: {one_line(error)}") from error
    return ray


def actors_of(ray: Any, node: dict[str, Any], threads: int) -> list[Any]:
    """Start an actor for each share of a node: each card or, where there is none, some cores."""
    cores, cards = node["Resources"].get("CPU", 0), int(node["Resources"].get("GPU", 0))
    each = min(threads, cores) or cores
    number = cards or (int(cores // each) if cores else 0)
    strategies = importlib.import_module("ray.util.scheduling_strategies")
    pinned = strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    options = {"num_gpus": 1, "num_cpus": 0} if cards else {"num_cpus": each}
    kind = ray.remote(NodeWorker).options(
        **options, max_restarts=-1, max_task_retries=-1, scheduling_strategy=pinned
    )
    return [kind.remote(number) for _ in range(number)]


def look_at(address: str, paths: Sequence[str]) -> list[dict[str, Any]]:
    """Describe all nodes of a cluster, for `upframe cluster doctor`."""
    ray, found = load_ray(address), list[dict[str, Any]]()
    nodes = [(node, actors_of(ray, node, 0)[:1]) for node in ray.nodes() if node["Alive"]]
    for node, actors in nodes:
        about: dict[str, Any] = {"node": node["NodeName"], "seen": {}}
        try:
            asked = [actor.describe.remote(list(paths)) for actor in actors]
            for answer in ray.get(asked, timeout=2 * _ANSWER_SECONDS):
                about |= answer
        except (ray.exceptions.RayError, TimeoutError) as error:
            about["refused"] = one_line(error, 500)
        if not actors:
            about["refused"] = "it lends neither cores nor cards"
        found.append(about)
    ray.shutdown()
    return found


@dataclass(slots=True, eq=False)
class _Share:
    number: int
    node: str
    """Its id."""
    name: str
    actor: Any


@dataclass(slots=True, eq=False)
class _Film:
    film: NodeFilm
    writer: asyncio.StreamWriter
    orders: dict[int, asyncio.Queue[str]] = field(default_factory=dict[int, asyncio.Queue[str]])
    """By the number of each share that is lent to it."""
    refused: dict[str, str] = field(default_factory=dict[str, str])
    """Why, by the id of a node."""
    deaths: Counter[str] = field(default_factory=Counter[str])
    """By node, since the last result."""
    is_closed: bool = False
    returned: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a share is."""

    def say(self, kind: str, slot: int, text: str) -> None:
        """Send a line; what is sent to a film that has gone is dropped."""
        self.writer.write(json.dumps([kind, slot, text]).encode() + b"\n")

    def refuse(self, share: _Share, why: str) -> None:
        """Work on without a node."""
        if share.node not in self.refused:
            self.refused[share.node] = f"{share.name} is refused: {one_line(why, 500)}"
            self.say("refused", 0, self.refused[share.node])


class Driver:
    """Lends the shares of all nodes to films.

    Args:
        ray: the package, connected.
        threads: of a process on a CPU; 0: as many as its node has cores.
    """

    def __init__(self, ray: Any, threads: int) -> None:
        self._ray = ray
        self._threads = threads
        self._films: list[_Film] = []
        self._nodes: dict[str, list[asyncio.Task[None]]] = {}
        self._number = 0
        """Of shares so far."""
        self._faults = (ray.exceptions.RayError, OSError, ValueError, TimeoutError)

    async def watch(self) -> NoReturn:
        """Lend the nodes that come, and forget those that go; fails if the head does not answer."""
        while True:
            async with asyncio.timeout(_ANSWER_SECONDS):
                nodes = await asyncio.to_thread(self._ray.nodes)
            alive = {node["NodeID"]: node for node in nodes if node["Alive"]}
            for gone in self._nodes.keys() - alive.keys():
                for task in self._nodes.pop(gone):
                    task.cancel()
            for new in alive.keys() - self._nodes.keys():
                tasks = self._nodes[new] = list[asyncio.Task[None]]()
                for actor in actors_of(self._ray, alive[new], self._threads):
                    self._number += 1
                    share = _Share(self._number, new, alive[new]["NodeName"], actor)
                    tasks.append(asyncio.create_task(self._lend(share), name=share.name))
            able = {node for node, tasks in self._nodes.items() if tasks}
            for film in self._films:
                if able and not film.orders and able <= film.refused.keys():
                    reasons = "; ".join(film.refused[node] for node in sorted(able))
                    film.say("absent", 0, f"no node of the cluster can work on this: {reasons}")
            await asyncio.sleep(_LOOK_SECONDS)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a film until its connection is closed."""
        if first := await reader.readline():
            film = _Film(NodeFilm.model_validate_json(first), writer)
            self._films.append(film)
            with suppress(ConnectionError):
                while line := await reader.readline():
                    order: dict[str, Any] = json.loads(line)
                    if (queue := film.orders.get(order["slot"])) is not None:
                        queue.put_nowait(order["line"])
            film.is_closed = True
            self._films.remove(film)
            while film.orders:  # their processes are being ended
                await film.returned.wait()
                film.returned.clear()
        writer.close()

    def _next_film(self, node: str) -> _Film | None:
        able = (each for each in self._films if node not in each.refused)
        return next((each for each in able if len(each.orders) < each.film.most), None)

    async def _lend(self, share: _Share) -> NoReturn:
        """Lend a share to one film after the other."""
        try:
            while True:
                film, ready = self._next_film(share.node), share.actor.__ray_ready__
                try:
                    await (ready.remote() if film else asyncio.sleep(_LOOK_SECONDS / 5))
                except self._faults as error:
                    if film is not None:
                        film.refuse(share, str(error))
                if film is not None and film is self._next_film(share.node):
                    film.orders[share.number] = asyncio.Queue()
                    await self._lend_to(film, share)
        finally:
            self._ray.kill(share.actor)

    async def _lend_to(self, film: _Film, share: _Share) -> None:
        """Lend a share to a film, until the process there has ended or the film is closed."""
        end: str | None = "was lost with its node"
        try:
            end = await self._carry(film, share)
            await self._answer(share.actor.end.remote())
        except self._faults as error:
            end = f"was lost: {one_line(getattr(error, 'cause', None) or error, 300)}"
        finally:
            del film.orders[share.number]
            film.returned.set()
            if end is not None:
                film.say("ended", share.number, end)
                film.deaths[share.node] += 1
                if film.deaths[share.node] >= _MOST_DEATHS:
                    film.refuse(share, f"{_MOST_DEATHS} processes have ended there, the last {end}")

    async def _answer(self, answer: Awaitable[Any]) -> Any:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await answer

    async def _carry(self, film: _Film, share: _Share) -> str | None:
        """Carry lines to and from a process; return how it has ended, if it is to be said."""
        run, orders, actor = secrets.token_hex(8), film.orders[share.number], share.actor
        sees_folder = await self._begin(film, share, run)
        is_ready, sent, owed, heard = False, 0, 0, 0
        while not film.is_closed:
            lines: list[str] = []
            if is_ready and not owed:  # it has nothing to say before it has an order
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        lines.append(await orders.get())
            while not orders.empty():
                lines.append(orders.get_nowait())
            said, end = await self._answer(actor.turn.remote(run, sent, lines, heard))
            sent, owed, heard = sent + len(lines), owed + len(lines), heard + len(said)
            for text in said:
                event: dict[str, Any] = json.loads(text)
                if event["kind"] == "failed" and not is_ready:
                    film.refuse(share, event["message"])
                    return None
                if event["kind"] == "ready":
                    is_ready = True
                    film.say("lent", share.number, share.name)
                if event["kind"] == "done":
                    owed -= 1
                    film.deaths[share.node] = 0
                    if not sees_folder:
                        await self._fetch(film, share, run, event)
                film.say("said", share.number, text)
            if end is not None:
                return end
        return None

    async def _begin(self, film: _Film, share: _Share, run: str) -> bool:
        """Start the process; return whether it writes into the film's own folder."""
        actor, about = share.actor, film.film
        folder = f"{about.folders}{share.number}"
        os.makedirs(folder, mode=0o700, exist_ok=True)
        sees_folder, sees_source = await self._answer(actor.look.remote(run, about))
        if not sees_source:
            await self._copy(film, share, run)
        target = folder if sees_folder else None
        await self._answer(actor.start.remote(run, about, target, is_copied=not sees_source))
        return sees_folder

    async def _copy(self, film: _Film, share: _Share, run: str) -> None:
        """Send the film itself to a node, unless it is another one by now."""
        offset, about = 0, film.film
        with await asyncio.to_thread(open, about.source, "rb") as file:
            if not about.is_source(file):
                raise ValueError(f"{about.source} was changed during the work")
            while not film.is_closed and (data := await asyncio.to_thread(file.read, _PIECE_BYTES)):
                digest = hashlib.sha256(data).hexdigest()
                await self._answer(share.actor.put.remote(run, about, offset, data, digest))
                offset += len(data)

    async def _fetch(self, film: _Film, share: _Share, run: str, made: dict[str, Any]) -> None:
        """Bring a segment from a node, whose process has described it."""
        name, left, actor, digest = made["name"], made["size"], share.actor, hashlib.sha256()
        path = Path(f"{film.film.folders}{share.number}", Path(name).name)
        with await asyncio.to_thread(path.open, "wb") as file:
            while left > 0:
                about = name, file.tell(), min(_PIECE_BYTES, left)
                data: bytes = await self._answer(actor.get.remote(run, *about))
                left -= len(data) or left
                digest.update(data)
                file.write(data)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        if digest.hexdigest() != made["sha256"]:
            raise ValueError(f"a segment has arrived damaged from {share.name}")
        await self._answer(actor.drop.remote(run, name))


if __name__ == "__main__":
    main()
