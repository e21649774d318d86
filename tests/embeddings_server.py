"""A real server of `POST /v1/embeddings`, in a thread, that can be told to misbehave."""

from __future__ import annotations

import json
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.index_space import encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

HELD_SECONDS = 20.0
"""How long an answer is held back at most."""


@dataclass
class Request:
    """What came: the headers in lower case, the path, and the body as JSON."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Embeddings:
    """The server as a test sees it. Its vectors are the first `dimension` numbers of those of the default encoder.

    `next` are the answers of the next requests, `always` that of every one after them: a status, bytes as they are, or
    one of `hang`, `drip`, `drop`. None: a good answer. Texts longer than `longest`, and those with the word `refused`,
    are answered with 400.
    """

    dimension: int = 64
    longest: int = 1 << 30
    always: Any = None
    next: deque[Any] = field(default_factory=deque)
    headers: dict[str, str] = field(default_factory=dict)
    edit: Callable[[list[dict[str, Any]]], Any] = list
    requests: list[Request] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def url(self) -> str:
        """The URL of the API."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def setting(self) -> str:
        """What the setting `encoder` is for it."""
        return f"openai:{self.url}#tiny"

    @property
    def texts(self) -> list[str]:
        """All texts that came, in order."""
        return [text for request in self.requests for text in request.body["input"]]

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors it answers with, not scaled."""
        made = encoder().encode(list(texts))[:, : self.dimension].copy()
        made[:, 0] += 1e-3
        return np.asarray(7 * made, dtype=np.float32)

    def takes(self, text: str) -> bool:
        """Whether it takes a text."""
        return bool(text) and len(text) <= self.longest and "refused" not in text


@contextmanager
def embeddings(port: int = 0, **options: Any) -> Iterator[Embeddings]:
    """A running server; gone, with its port closed, at the end."""
    state = Embeddings(**options)
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(state))
    server.daemon_threads = True
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


def _handler(state: Embeddings) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            state.requests.append(Request(self.path, headers, body))
            answer = state.next.popleft() if state.next else state.always
            if answer == "drop":
                self.close_connection = True
                self.connection.close()
            elif answer in ("hang", "drip"):
                self._hold(dripping=answer == "drip")
            elif isinstance(answer, bytes):
                self._send(200, answer)
            elif answer is not None:
                self._send(answer, b'{"error": {"message": "no"}}')
            elif not all(map(state.takes, body["input"])):
                self._send(400, b'{"error": {"message": "too long"}}')
            else:
                vectors = enumerate(state.vectors(body["input"]).tolist())
                data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in vectors]
                edited = state.edit(data)
                self._send(200, json.dumps({"object": "list", "data": edited, "model": "tiny"}).encode())

        def _send(self, status: int, content: bytes) -> None:
            self.send_response(status)
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _hold(self, *, dripping: bool) -> None:
            self.close_connection = True
            try:
                if dripping:
                    self.send_response(200)
                    self.send_header("content-length", "1000000")
                    self.end_headers()
                    for _ in range(int(HELD_SECONDS * 100)):
                        self.wfile.write(b" ")
                        if state.released.wait(0.01):
                            return
                state.released.wait(HELD_SECONDS)
            except OSError:
                return  # the client is gone

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is printed."""

    return Handler
