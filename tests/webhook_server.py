"""A real HTTP server that is sent events, in a thread, and can be told to misbehave."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

HELD_SECONDS = 20.0
"""How long an answer is held back at most."""


@dataclass
class Received:
    """What came: path, headers in lower case, and body; when it came and was answered, in monotonic seconds."""

    path: str
    headers: dict[str, str]
    body: bytes
    came: float
    answered: float = 0.0

    @property
    def json(self) -> dict[str, Any]:
        """The body as JSON."""
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Endpoint:
    """The server as a test sees it.

    `next` are the answers of the next requests, `always` that of every one after them: a status, a pair of status and
    headers, or one of `hang` (no answer), `late` (410 once it is `released`), `slow` (200 after a moment), `drip` (200
    and a body without end), `huge` (200 and a body of 64 MiB), `reset` (the connection is reset), `garbage` (what is no
    HTTP). `by_type` answers by the type of the event instead, if it has an answer.
    """

    always: Any = 200
    next: deque[Any] = field(default_factory=deque)
    by_type: Callable[[dict[str, Any]], Any] = lambda _: None
    requests: list[Received] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    port: int = 0
    scheme: str = "http"
    at_once: int = 0
    most_at_once: int = 0

    @property
    def url(self) -> str:
        """Where events may be sent."""
        return f"{self.scheme}://127.0.0.1:{self.port}/events"

    @property
    def ids(self) -> list[str]:
        """The ids of the events that came, in order."""
        return [request.json["id"] for request in self.requests]


@contextmanager
def endpoint(tls: ssl.SSLContext | None = None, port: int = 0, **options: Any) -> Iterator[Endpoint]:
    """A running server, with TLS if there is a context for it; gone, with its port closed, at the end."""
    state = Endpoint(**options)
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(state))
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        state.scheme = "https"
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(state: Endpoint) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # the client went away, or did not like the certificate
                super().handle()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            received = Received(self.path, headers, body, time.monotonic())
            with lock:
                state.requests.append(received)
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
                answer = state.by_type(received.json) or (state.next.popleft() if state.next else state.always)
            self.under_way: Received | None = received
            try:
                self._answer(answer)
            finally:
                self._leave()

        def _leave(self) -> None:
            """Count the request no longer; before it is answered, for who has the answer may send the next."""
            if self.under_way is not None:
                self.under_way.answered = time.monotonic()
                self.under_way = None
                with lock:
                    state.at_once -= 1

        def _answer(self, answer: Any) -> None:
            self.close_connection = True
            if answer == "hang":
                state.released.wait(HELD_SECONDS)
            elif answer == "late":
                state.released.wait(HELD_SECONDS)
                self._send(410)
            elif answer == "slow":
                state.released.wait(0.05)
                self._send(200)
            elif answer == "drip":
                self._head(200, {"content-length": "1000000"})
                while not state.released.wait(0.01):
                    self.wfile.write(b" ")
            elif answer == "huge":
                self._head(200, {"content-length": str(1 << 26)})
                for _ in range(1 << 10):
                    self.wfile.write(b" " * (1 << 16))
            elif answer == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            elif answer == "garbage":
                self.wfile.write(b"what?\r\n\r\n")
            elif isinstance(answer, tuple):
                self._send(*answer)
            else:
                self._send(answer)

        def _send(self, status: int, headers: dict[str, str] | None = None) -> None:
            content = b"" if status == 204 else b"an answer that nobody looks at"
            self._head(status, {"content-length": str(len(content)), **(headers or {})})
            self.wfile.write(content)

        def _head(self, status: int, headers: dict[str, str]) -> None:
            self._leave()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is printed."""

    return Handler
