"""The server, asked over real connections: what it answers, whom, and how."""

import contextlib
import http.client
import json
import socket
import threading

import pytest

from lopt.monitor import serve
from lopt.monitor.serve import Site
from lopt.names import InputError
from tests.monitor.example import row, rows, watcher, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("runs") / "run", rows(10))


@contextlib.contextmanager
def serving(look, **more):
    with Site(look, **more) as site:
        thread = threading.Thread(target=site.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield site
        finally:
            site.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def site(folder):
    with serving(watcher(folder).look, every=0.0) as site:
        yield site


def ask(site, path="/", method="GET", host=None, body=None):
    """Status, headers and body of the answer."""
    connection = http.client.HTTPConnection(*site.server_address[:2], timeout=10)
    try:
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", host if host is not None else f"127.0.0.1:{site.server_address[1]}")
        if body:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


def test_it_listens_on_this_machine_alone(site):
    assert site.server_address[0] == "127.0.0.1"
    assert site.url == f"http://127.0.0.1:{site.server_address[1]}/"


def test_the_page_and_what_is_new(site, folder):
    status, headers, body = ask(site)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"outer step 10 of 100" in body
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row(11)) + "\n" + '{"step": 12, "meta_l')
    status, headers, body = ask(site, "/now.json?x=1")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert "outer step 11 of 100" in json.loads(body)["parts"]["header"]


def test_headers_keep_other_sites_out(site):
    for path in ("/", "/now.json", "/absent"):
        _, headers, _ = ask(site, path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "connect-src 'self'; frame-ancestors 'none'" in policy
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers
        assert "Python" not in headers["Server"]


PATHS = [
    "/index.html", "/metrics.jsonl", "/config.json", "/./", "/now.json/", "/../now.json", "/%2e%2e/etc/passwd",
    "/..%2f..%2fetc/passwd", "/now%2ejson", "/favicon.ico", "*", "http://127.0.0.1/run/config.json",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_nothing_else_is_answered(site, path):
    status, _, body = ask(site, path)
    assert status == 404
    assert body == b"there is nothing here: the page is at /\n"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"])
def test_nothing_can_be_written(site, folder, method):
    before = (folder / "metrics.jsonl").read_bytes()
    status, headers, _ = ask(site, "/", method, body=b"x=1")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_head_has_no_body(site):
    status, headers, body = ask(site, "/", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 1000
    with socket.create_connection(site.server_address[:2], timeout=10) as connection:  # as the client drops a body
        connection.sendall(b"HEAD / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(10_000), b""))
    assert answer.endswith(b"\r\n\r\n")
    assert answer.count(b"\r\n\r\n") == 1


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:9000", 200),  # a tunnel has another port
        ("127.0.0.1", 200),
        ("[::1]:8710", 200),
        ("192.168.1.5:80", 200),  # an address is no name that somebody could have made point here
        ("evil.example", 421),
        ("evil.example:8710", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("evil.example@127.0.0.1.nip.io", 421),
        ("", 421),
        ("[", 421),
        ("2130706433.example", 421),
    ],
)
def test_names_that_were_made_to_point_here_are_refused(site, host, status):
    found, _, body = ask(site, host=host)
    assert found == status
    assert (b"run" in body) == (status == 200)


def test_a_name_that_is_given_is_answered(folder):
    with serving(watcher(folder).look, host="localhost") as site:
        site._host = "Box.example"
        assert [ask(site, host=name)[0] for name in ("box.example:1", "BOX.example", "evil.example")] == [200, 200, 421]


def test_a_request_that_is_none_ends_in_an_answer(site):
    for request, answer in (
        (b"hello", b"Bad request"),
        (b"GET / HTTP/9", b"Bad request"),
        (b"GET /", b"this name is not"),
    ):
        with socket.create_connection(site.server_address[:2], timeout=10) as connection:
            connection.sendall(request + b"\r\n\r\n")
            assert answer in connection.recv(1000)


def test_who_says_nothing_is_not_waited_for(folder, monkeypatch):
    """Each connection has a thread, which would else stay for good."""
    assert serve._Handler.timeout == serve.REQUEST_SECONDS
    monkeypatch.setattr(serve._Handler, "timeout", 0.2)
    with (
        serving(watcher(folder).look) as site,
        socket.create_connection(site.server_address[:2], timeout=30) as connection,  # pyright: ignore[reportArgumentType]
    ):
        connection.sendall(b"GET / HTT")
        assert connection.recv(1000) == b""


def test_one_look_serves_all_who_ask_meanwhile(folder):
    looks = []

    def look():
        looks.append(1)
        return watcher(folder).look()

    with serving(look, every=1000.0) as site:
        assert {ask(site, path)[0] for path in ("/", "/now.json", "/", "/now.json")} == {200}
    assert len(looks) == 1


def test_runs_that_have_gone_are_an_answer_too():
    def look():
        raise InputError("runs/x is no folder")

    with serving(look) as site:
        assert ask(site)[::2] == (503, b"runs/x is no folder\n")


def test_a_port_that_is_taken(site):
    with pytest.raises(InputError, match=r"cannot listen on 127.0.0.1 port \d+: .*in use. --port=0 takes a port"):
        Site(list, port=site.server_address[1])
    with pytest.raises(InputError, match=r"cannot listen on no-such-host.invalid"):
        Site(list, host="no-such-host.invalid")
    for port in (-1, 65536):
        with pytest.raises(InputError, match=rf"--port={port}: a port is a number from 0 to 65535"):
            Site(list, port=port)
