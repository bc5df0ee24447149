"""A real HTTP server that speaks the API of OpenAI and misbehaves as it is told, one act for each request."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

Act = Callable[["Request"], None]
Say = Callable[[dict[str, Any]], str]
"""The text of a reply to a request's body."""
USAGE = {"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 60}}


class Request(BaseHTTPRequestHandler):
    """One request, with what a misbehaving server needs."""

    protocol_version = "HTTP/1.1"
    house: FaultyServer

    def do_GET(self) -> None:
        self.house.asked_for_models += 1
        self.send(200, json.dumps({"object": "list", "data": [{"id": name} for name in self.house.models]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with (
            self.house.entered({name.lower(): self.headers[name] for name in self.headers}, body) as act,
            contextlib.suppress(OSError),
        ):  # the client has gone
            self.body: dict[str, Any] = body
            act(self)

    def send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (
            {"Content-Length": str(len(body)), "Content-Type": "application/json"} | dict(headers or {})
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""


class FaultyServer:
    """Serves on this machine until the end of a `with`; `script` is used up, then `usual` is done."""

    def __init__(self, *script: Act, usual: Act | None = None, models: tuple[str, ...] = ("tiny", "large")) -> None:
        self.script = deque(script)
        self.usual = usual or good("<answer>7</answer>")
        self.models = models
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        """By their names in small letters."""
        self.times_s: list[float] = []
        self.asked_for_models = 0
        self.most_at_once = 0
        self.closing = threading.Event()
        self._num_inside = 0
        self._lock = threading.Lock()
        handler = type("Handler", (Request,), {"house": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @contextlib.contextmanager
    def entered(self, headers: dict[str, str], body: dict[str, Any]) -> Any:
        with self._lock:
            self.headers.append(headers)
            self.bodies.append(body)
            self.times_s.append(time.monotonic())
            self._num_inside += 1
            self.most_at_once = max(self.most_at_once, self._num_inside)
            act = self.script.popleft() if self.script else self.usual
        try:
            yield act
        finally:
            with self._lock:
                self._num_inside -= 1


def reply_body(text: str | None, *, finish: str | None = "stop", usage: object = USAGE, **message: object) -> bytes:
    """As a healthy server sends it."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text} | message}
    return json.dumps({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


def good(text: str | None, *, finish: str | None = "stop", usage: object = USAGE, **message: object) -> Act:
    return raw(reply_body(text, finish=finish, usage=usage, **message))


def saying(say: Say, *, after_s: float = 0.0) -> Act:
    """A reply that depends on the request."""

    def act(request: Request) -> None:
        time.sleep(after_s)
        request.send(200, reply_body(say(request.body)))

    return act


def raw(body: bytes, headers: Mapping[str, str] | None = None) -> Act:
    return lambda request: request.send(200, body, headers)


def refusal(
    status: int, message: str = "no", *, code: str | None = None, headers: Mapping[str, str] | None = None
) -> Act:
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    return lambda request: request.send(status, body, headers)


def witness(url: str, heard: list[dict[str, Any]]) -> Act:
    """Hand the request on to another server, and keep what it answers."""

    def act(request: Request) -> None:
        body = json.dumps(request.body).encode()
        asked = urllib.request.Request(f"{url}/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=120) as answer:
            said = answer.read()
        heard.append(json.loads(said))
        request.send(200, said)

    return act


def hang(request: Request) -> None:
    """No word until the end."""
    request.house.closing.wait(20)
    request.close_connection = True


def drop(request: Request) -> None:
    """The connection breaks before a word is said."""
    request.close_connection = True


def half(request: Request) -> None:
    """The connection breaks in the middle of a reply."""
    body = reply_body("<answer>7</answer>")
    request.send_response(200)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body[: len(body) // 2])
    request.close_connection = True


def drip(request: Request) -> None:
    """A reply that never ends: a few bytes now and then."""
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    while not request.house.closing.wait(0.02):
        request.wfile.write(b"1\r\n \r\n")
        request.wfile.flush()
    request.close_connection = True


def flood(status: int = 200) -> Act:
    """As many bytes as anybody takes."""

    def act(request: Request) -> None:
        request.send_response(status)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        piece = b"100000\r\n" + b"[" * 0x100000 + b"\r\n"
        while not request.house.closing.is_set():
            request.wfile.write(piece)
        request.close_connection = True

    return act
