"""Serves a page to watch a run while it goes on: a sink (see sinks.py), with a web server in a thread of its own.

A browser asks for the newest frame when it has shown the last one. So there is no queue: a slow browser misses frames,
and neither the loop nor another browser waits for it. While nobody looks, a frame costs the loop microseconds; with
several cameras, so does a frame of one at which nobody looks.

    GET /                               the page; /page.js and so on
    GET /next?after=SEQ&camera=NAME     waits for a newer frame: see view.py; 204 = none for long, 410 = the end
    GET /track/ID?camera=NAME           what is remembered of an object: see history.py

SEQ and ID count for each camera alone. Without a NAME it is the first camera; 404 for one that the run does not have.

Needs the extra `serve`.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from time import monotonic

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from perception.serve.access import Address, Gate
from perception.serve.history import History
from perception.serve.view import View, about
from perception.sinks import Outcome, Sink

__all__ = ["PageServer"]

FILES = Path(__file__).parent / "page"
WATCHED_S = 3.0  # after its last question a browser counts as gone
WAIT_S = 10.0  # how long a question for the next frame stays open
MAX_CONNECTIONS = 64


@dataclass(slots=True)
class _Watched:
    """One camera: what is remembered of it, and its newest frame as long as somebody looks."""

    history: History = field(default_factory=History)
    view: View | None = None
    seq: int = 0  # of its newest frame, from 1
    asked_s: float = -WATCHED_S  # when a browser asked last, by monotonic


class PageServer(Sink):
    """Shows every frame to whoever looks; of several cameras, a browser watches one at a time.

    Args:
        address: "HOST:PORT", see `Address.parse`; port 0 = any free one.
        model, source: for the page's title line.
        cameras: the names that frames come with; a single camera has none.

    Raises ValueError for an address that is none, OSError if it can not be had. The page is there until `close`.
    """

    name = "page"

    def __init__(self, address: str = "", model: str = "", source: str = "", cameras: Sequence[str] = ("",)) -> None:
        wanted = Address.parse(address)
        listening = _bind(wanted)
        self.address = Address(wanted.host, listening.getsockname()[1], wanted.token)
        self.model, self.source = model, source
        self.run = secrets.token_hex(4)  # tells a new run from the old one after a reconnect
        self._about: dict[str, object] = {}
        self._cameras = {name: _Watched() for name in cameras}
        self._ended = False
        self._news: asyncio.Event | None = None  # belongs to the server's loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = Event()
        app = Starlette(
            routes=[
                Route("/next", self._next),
                Route("/track/{id:int}", self._track),
                Route("/", self._index),
                Mount("/", StaticFiles(directory=FILES)),
            ]
        )
        config = uvicorn.Config(
            Gate(app, self.address),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._thread = Thread(target=self._serve, args=(listening,), name="page", daemon=True)
        self._thread.start()
        self._ready.wait()

    @property
    def url(self) -> str:
        """What to open in a browser, with the token if there is one."""
        return self.address.url

    def write(self, outcome: Outcome) -> None:
        """Take one frame: remember its figures, and, if someone looks at its camera, a small copy. Never waits."""
        if self._ended:
            return
        now = monotonic()
        frame, names = outcome.frame, outcome.result.box_names
        camera = self._cameras[frame.camera]
        camera.seq += 1
        camera.history.add(camera.seq, now, frame, outcome.tracks, names, outcome.spent)
        if now - camera.asked_s < WATCHED_S:
            if not self._about:
                several = [name for name in self._cameras if name]
                self._about = about(outcome.result, self.model, self.source or frame.source, several)
            camera.view = View(camera.seq, outcome)
            self._wake()

    def close(self) -> None:
        """Tell the browsers that the run has ended, and stop serving. More than once does no harm."""
        if self._ended:
            return
        self._ended = True
        self._wake()
        self._server.should_exit = True
        self._thread.join(timeout=10)

    # what follows runs in the server's thread

    def _serve(self, listening: socket.socket) -> None:
        async def main() -> None:
            self._loop, self._news = asyncio.get_running_loop(), asyncio.Event()
            self._ready.set()
            await self._server.serve(sockets=[listening])

        try:
            asyncio.run(main())
        finally:
            self._ready.set()
            listening.close()

    def _wake(self) -> None:
        """Called by the loop's thread: all that wait look again."""
        if self._loop and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._turn)
            except RuntimeError:  # it was closed just now
                pass

    def _turn(self) -> None:
        assert self._news
        self._news.set()
        self._news = asyncio.Event()

    def _camera(self, request: Request) -> _Watched:
        """The camera that is asked for. Raises HTTPException for one that is not there."""
        name = request.query_params.get("camera") or next(iter(self._cameras))
        if name not in self._cameras:
            expected = ", ".join(self._cameras) or "none: this run has a single camera"
            raise HTTPException(404, f"no camera {name[:80]!r}; expected {expected}\n")
        return self._cameras[name]

    async def _next(self, request: Request) -> Response:
        camera = self._camera(request)
        text = request.query_params.get("after", "")
        after = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
        deadline = monotonic() + WAIT_S
        while True:
            camera.asked_s = monotonic()
            if self._ended:
                return PlainTextResponse("the run has ended", 410)
            view = camera.view
            if view and view.seq > after and (after >= 0 or camera.seq - view.seq < 3):
                more = {"run": self.run} | ({"about": self._about} if after < 0 else {})
                points = camera.history.points(after)
                body = await asyncio.to_thread(view.message, points, more)
                return Response(body, media_type="application/octet-stream")
            if monotonic() > deadline:
                return Response(status_code=204)
            assert self._news
            try:
                await asyncio.wait_for(self._news.wait(), 1.0)
            except TimeoutError:
                continue

    async def _track(self, request: Request) -> Response:
        life = self._camera(request).history.track(request.path_params["id"])
        return JSONResponse(life) if life else JSONResponse({"error": "no such object is remembered"}, 404)

    async def _index(self, _: Request) -> Response:
        return FileResponse(FILES / "index.html")


def _bind(address: Address) -> socket.socket:
    """A listening socket. Raises OSError with the remedy."""
    try:
        family, _, _, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(where)
            listening.listen(128)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise OSError(
            f"--serve {address.host}:{address.port}: can not be had: {error.strerror or error}; "
            "expected an address of this machine and a free port; choose another port (a SOURCE goes before --serve)"
        ) from None
    listening.setblocking(False)
    return listening
