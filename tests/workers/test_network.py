from __future__ import annotations

import asyncio
import contextlib
import gc
import http.server
import os
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workers import network
from workers.network import FetchResult, fetch, port_probe, resolve

Reply = bytes | Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


def fetched(reply: Reply | list[Reply], path: str = "/", **options: Any) -> tuple[FetchResult, list[bytes]]:
    """Fetch from a loopback server that sends these replies, one per connection; and what it was asked."""

    async def story() -> tuple[FetchResult, list[bytes]]:
        requests: list[bytes] = []
        replies = list(reply) if isinstance(reply, list) else [reply]

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with closing(writer):
                requests.append(await reader.readuntil(b"\r\n\r\n"))
                answer = replies.pop(0) if len(replies) > 1 else replies[0]
                if callable(answer):
                    await answer(requests[-1], writer)
                else:
                    writer.write(answer)
                    await writer.drain()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await fetch(f"http://127.0.0.1:{port}{path}", **options), requests

    return asyncio.run(story())


@contextlib.contextmanager
def closing(writer: asyncio.StreamWriter) -> Iterator[None]:
    """Close the server's end of a connection that the fetch may have left already, or never will."""
    try:
        yield
    except ConnectionError:
        writer.transport.abort()
    except asyncio.CancelledError:
        writer.transport.abort()
        raise
    else:
        writer.close()


def head(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode("latin-1")


def test_a_body_of_known_length_arrives_whole_with_its_headers() -> None:
    result, requests = fetched(head("200 OK", "Content-Length: 5", "X-A: 1", "X-A: 2") + b"hello", "/a?b=ü#f")
    assert (result.status, result.reason, result.body) == (200, "OK", b"hello")
    assert result.headers["x-a"] == "1, 2"
    assert requests[0].startswith(b"GET /a?b=%C3%BC HTTP/1.1\r\nHost: 127.0.0.1:")


@pytest.mark.parametrize(
    ("reply", "body"),
    [
        (
            head("200 OK", "Transfer-Encoding: chunked") + b"3\r\nabc\r\nA;x=1\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
            b"abc0123456789",
        ),
        (head("200 OK") + b"until the end", b"until the end"),
        (b"HTTP/1.0 200\n\nbare newlines", b"bare newlines"),
        (head("100 Continue") + head("200 OK", "Content-Length: 2") + b"ok", b"ok"),
        (head("204 No Content", "Content-Length: 7"), b""),
    ],
)
def test_every_framing_of_a_body_is_read(reply: bytes, body: bytes) -> None:
    assert fetched(reply)[0].body == body


def test_an_error_status_is_a_result() -> None:
    result, _ = fetched(head("404 Not Found", "Content-Length: 4") + b"gone")
    assert (result.status, result.body) == (404, b"gone")


def test_head_reads_no_body() -> None:
    result, requests = fetched(head("200 OK", "Content-Length: 1000000000"), method="HEAD")
    assert result.body == b""
    assert requests[0].startswith(b"HEAD ")


@pytest.mark.parametrize(
    "reply",
    [
        head("200 OK", "Content-Length: 101"),
        head("200 OK", "Transfer-Encoding: chunked") + b"32\r\n" + b"x" * 50 + b"\r\n33\r\n",
        head("200 OK") + b"x" * 101,
    ],
)
def test_a_body_over_max_bytes_fails_before_it_is_held(reply: bytes) -> None:
    with pytest.raises(ValueError, match="max_bytes is 100"):
        fetched(reply, max_bytes=100)


def test_an_endless_body_ends_at_max_bytes() -> None:
    async def pour(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head("200 OK"))
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    with pytest.raises(ValueError, match="max_bytes is 1000000"):
        fetched(pour, max_bytes=1_000_000)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\n", head("200 OK", "Content-Length: 9") + b"slow"])
def test_a_silent_server_is_a_timeout_wherever_it_stops(sent: bytes) -> None:
    async def stall(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match=r"timeout_s=0\.2"):
        fetched(stall, timeout_s=0.2)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP/1.x"),
        (b"HTTP/1.1 abc\r\n\r\n", "not HTTP/1.x"),
        (b"", "closed the connection"),
        (head("200 OK", "Content-Length: 9") + b"short", "closed the connection"),
        (head("200 OK", "Content-Length: -1"), "as the length"),
        (head("200 OK", "Content-Length: 1_0"), "as the length"),
        (head("200 OK", "Transfer-Encoding: gzip"), "only chunked"),
        (head("200 OK", "Transfer-Encoding: chunked") + b"2\r\nabc\r\n", "longer than it said"),
        (head("200 OK", "no colon here"), "where a header was expected"),
        (head("200 OK", *["A: b"] * 300), "more than 200 headers"),
        (b"HTTP/1.1 200 " + b"x" * 100_000, "line without end"),
        (head("100 Continue") * 20, "interim"),
    ],
)
def test_what_is_not_http_is_a_connection_error(reply: bytes, message: str) -> None:
    with pytest.raises(ConnectionError, match=message):
        fetched(reply)


def test_redirects_are_followed_and_listed() -> None:
    result, requests = fetched([head("302 Found", "Location: /there"), head("200 OK", "Content-Length: 0")], "/here")
    assert result.url.endswith("/there")
    assert [url.rsplit("/", 1)[1] for url in result.redirects] == ["here"]
    assert requests[1].startswith(b"GET /there ")


def test_a_redirect_loop_ends() -> None:
    with pytest.raises(ValueError, match="more than max_redirects=5 times"):
        fetched(head("301 Moved", "Location: /"))


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://host/", "gopher://x/", "http://user:pw@host/"])
def test_a_redirect_leads_to_plain_http_only(location: str) -> None:
    with pytest.raises(ValueError, match=r"only http and https|user name or password"):
        fetched(head("302 Found", f"Location: {location}"))


def test_a_redirect_may_not_leave_https() -> None:
    secure = network.parse_url("https://a.example/")
    with pytest.raises(ValueError, match="redirects from https"):
        network._redirected("https://a.example/", secure, "http://a.example/", {}, ["x"], 5)


def test_credentials_stay_with_their_origin() -> None:
    secure = network.parse_url("https://a.example/")
    kept = {"Authorization": "secret", "Accept": "text/plain"}
    network._redirected("https://a.example/", secure, "/other", kept, ["x"], 5)
    assert "Authorization" in kept
    network._redirected("https://a.example/", secure, "https://b.example/", kept, ["x"], 5)
    assert kept == {"Accept": "text/plain"}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "only http and https"),
        ("/etc/passwd", "only http and https"),
        ("ftp://host/x", "only http and https"),
        ("http:///path", "names no host"),
        ("http://user:secret@host/", "user name or password"),
        ("http://host/a b", "white space"),
        ("http://host/\r\nX: y", "white space"),
        ("http://host:99999/", "wrong host or port"),
        ("http://host:0/", "port 0"),
        ("http://" + "a" * 64 + ".example/", "wrong host or port"),
    ],
)
def test_urls_that_are_not_fetched_are_refused_with_the_reason(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        asyncio.run(fetch(url))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
        ({"timeout_s": 301}, "timeout_s is 301"),
        ({"max_bytes": -1}, "max_bytes is -1"),
        ({"max_redirects": 21}, "max_redirects is 21"),
        ({"method": "POST"}, "GET or HEAD"),
        ({"headers": {"X": "a\r\nY: b"}}, "control"),
        ({"headers": {"X y": "a"}}, "is not allowed"),
        ({"headers": {"host": "evil"}}, "set by the fetch itself"),
    ],
)
def test_bad_limits_and_headers_are_refused_before_anything_is_sent(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asyncio.run(fetch("http://127.0.0.1:1/", **options))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/",
        "http://[::1]:1/",
        "http://10.0.0.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/",
    ],
)
def test_addresses_that_are_not_public_are_refused_on_request(url: str) -> None:
    with pytest.raises(PermissionError, match="not a public address"):
        asyncio.run(fetch(url, public_only=True))


def test_a_public_address_written_as_ipv6_is_public() -> None:
    network._check_public("host", ["8.8.8.8", "::ffff:8.8.8.8", "2606:4700:4700::1111"])


def test_a_closed_port_is_a_connection_error_that_says_so() -> None:
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1: refused"):
        asyncio.run(fetch(f"http://127.0.0.1:{closed_port()}/"))


def test_a_certificate_that_nobody_signed_is_refused(tls_server: int) -> None:
    with pytest.raises(ConnectionError, match="certificate"):
        asyncio.run(fetch(f"https://localhost:{tls_server}/"))


def test_a_hundred_fetches_share_one_loop() -> None:
    async def story() -> list[FetchResult]:
        arrived = 0
        everybody = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal arrived
            await reader.readuntil(b"\r\n\r\n")
            arrived += 1
            if arrived == 100:
                everybody.set()
            await everybody.wait()  # nobody is answered before all have asked
            with closing(writer):
                writer.write(head("200 OK", "Content-Length: 1") + b"x")

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.gather(*(fetch(f"http://127.0.0.1:{port}/{i}") for i in range(100)))

    assert all(result.body == b"x" for result in asyncio.run(story()))


def test_fetches_leave_no_descriptor_open() -> None:
    gc.collect()  # what earlier tests left in cycles is not this one's
    before = len(os.listdir("/proc/self/fd"))
    fetched(head("200 OK", "Content-Length: 1") + b"x")
    with pytest.raises(ConnectionError):
        fetched(b"nonsense\r\n")
    assert len(os.listdir("/proc/self/fd")) == before


def test_open_and_closed_ports_are_told_apart_in_the_order_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, closed = listener.getsockname()[1], closed_port()
        states = asyncio.run(port_probe("127.0.0.1", [closed, port, closed]))
        by_name = asyncio.run(port_probe("localhost", [port]))
        second = asyncio.run(network._probe(["127.0.0.2", "127.0.0.1"], port, 2.0))
    assert [(s.port, s.is_open, s.detail) for s in states] == [
        (closed, False, "refused"),
        (port, True, "open"),
        (closed, False, "refused"),
    ]
    assert by_name[0].is_open
    assert second.is_open  # a name's later address counts too


def test_a_port_that_does_not_answer_times_out() -> None:
    # a full accept queue drops further connection attempts, as a firewall does
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = opened.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        state = asyncio.run(port_probe("127.0.0.1", [listener.getsockname()[1]], timeout_s=0.2))[0]
    assert (state.is_open, state.detail) == (False, "timed out")


@pytest.mark.parametrize(
    ("ports", "message"), [([], "0 ports given"), ([0], "port 0 does not exist"), ([70000], "port 70000")]
)
def test_ports_that_do_not_exist_are_refused(ports: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asyncio.run(port_probe("127.0.0.1", ports))


def test_addresses_resolve_to_themselves_once() -> None:
    assert asyncio.run(resolve("127.0.0.1")) == ["127.0.0.1"]
    assert asyncio.run(resolve("::1", "ipv6")) == ["::1"]
    assert "127.0.0.1" in asyncio.run(resolve("localhost", "ipv4"))


def test_a_host_without_address_is_an_os_error_that_travels_as_itself() -> None:
    with pytest.raises(OSError, match="check the name") as failed:
        asyncio.run(resolve("::1", "ipv4"))
    assert type(failed.value) is OSError


@pytest.mark.parametrize(
    ("host", "family", "message"),
    [
        ("", "any", "is empty"),
        ("a b", "any", "white space"),
        ("x", "ipv5", "family is 'ipv5'"),
        ("a" * 64, "any", "not a host name"),
    ],
)
def test_hosts_that_cannot_be_are_refused(host: str, family: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asyncio.run(resolve(host, family))


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[int]:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    if os.system(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 "
        f"-subj /CN=localhost -keyout {key} -out {certificate} 2>/dev/null"
    ):
        pytest.skip("no openssl command")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()
