"""The page over HTTP, for a browser on this machine: two addresses that can be read, and nothing else."""

import ipaddress
import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from lopt.monitor.page import content, render
from lopt.monitor.runs import Seen
from lopt.names import InputError
from lopt.page.sheet import POLICY

LOOPBACK = "127.0.0.1"
REQUEST_SECONDS = 10.0  # for a request to arrive
HEADERS = {
    "Content-Security-Policy": f"{POLICY}; connect-src 'self'; frame-ancestors 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",  # no page of another site may take these answers into itself
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Site(ThreadingHTTPServer):
    """Answers GET and HEAD of `/` and `/now.json`, with what the runs are at that moment.

    A browser sends the name that it was told in the header Host. A name of elsewhere that somebody has made point here
    (DNS rebinding) is refused, since the pages of that name could read what they get: only IP addresses, localhost
    and the host given are answered.

    Args:
      look: the runs at this moment.
      host: the address to listen on, and a name that is answered.
      port: 0 for one that is free.
      every: seconds between looks, however often somebody asks.

    Raises:
      InputError: the address cannot be listened on.
    """

    daemon_threads = True

    def __init__(self, look: Callable[[], Sequence[Seen]], *, host: str = LOOPBACK, port: int = 0, every: float = 3.0):
        self._look, self._every, self._host = look, every, host
        self._lock, self._looked, self._answers = threading.Lock(), -float("inf"), {}
        if not 0 <= port <= 65535:  # which getaddrinfo would take modulo 65536
            raise InputError(f"--port={port}: a port is a number from 0 to 65535, and 0 takes one that is free")
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self.address_family = found[0]
            super().__init__(found[4], _Handler)  # pyright: ignore[reportArgumentType]
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(
                f"cannot listen on {host} port {port}: {reason}. --port=0 takes a port that is free"
            ) from error

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self.server_address[:2]
        return f"http://[{host}]:{port}/" if ":" in str(host) else f"http://{host}:{port}/"

    def knows(self, host: str) -> bool:
        """Whether a header Host is one of this machine's."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in ("localhost", self._host.lower()):
            return True
        try:
            ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            return False
        return True

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """Type and body of what is at a path; None where there is nothing. Raises InputError, OSError."""
        if path not in ("/", "/now.json"):
            return None
        with self._lock:  # one look serves all who ask meanwhile
            if time.monotonic() - self._looked >= self._every:
                runs = self._look()
                self._answers = {
                    "/": ("text/html; charset=utf-8", render(runs, every=self._every).encode()),
                    "/now.json": ("application/json", json.dumps(content(runs), allow_nan=False).encode()),
                }
                self._looked = time.monotonic()
            return self._answers[path]

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever went away in the middle of an answer is no error of ours."""


class _Handler(BaseHTTPRequestHandler):
    server: Site  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = REQUEST_SECONDS
    server_version, sys_version = "lopt", ""

    def do_GET(self) -> None:
        if not self.server.knows(self.headers.get("Host", "")):
            self._say(HTTPStatus.MISDIRECTED_REQUEST, "this name is not one of this machine's")
            return
        try:
            found = self.server.answer(urlsplit(self.path).path)
        except (InputError, OSError) as error:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
            return
        if found is None:
            self._say(HTTPStatus.NOT_FOUND, "there is nothing here: the page is at /")
        else:
            self._send(HTTPStatus.OK, *found)

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library refuses by itself: other methods, and requests that are none."""
        del explain
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self._say(status, message or status.phrase)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal is for the runs."""

    def _say(self, status: HTTPStatus, message: str) -> None:
        self.close_connection = True
        self._send(status, "text/plain; charset=utf-8", f"{message}\n".encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
