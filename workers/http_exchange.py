"""One HTTP/1.1 request and its response over asyncio streams, with a bound on everything the server may send.

Framing follows RFC 9112 (message syntax): chunked before Content-Length, else until the server closes. A
fresh connection per request keeps it short; the caller sets the time limit around the whole.
"""

from __future__ import annotations

import asyncio
from urllib.parse import quote, urlsplit

import msgspec

MAX_HEADERS = 200
MAX_HEAD_BYTES = 64 * 1024
_MAX_INTERIM = 8
_BODILESS = frozenset({204, 304})
_SAFE_IN_TARGET = "/%:@!$&'()*+,;=-._~?"


class Endpoint(msgspec.Struct, frozen=True):
    """Where a URL leads: `target` is path and query as sent, `host` without brackets."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: what may see credentials meant for this server."""
        return self.scheme, self.host, self.port

    @property
    def host_header(self) -> str:
        """Value of the Host header: brackets around IPv6, no default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


class Response(msgspec.Struct, frozen=True):
    """Status, headers (names in lower case, repeated ones joined by a comma) and body."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes


_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse_url(url: str) -> Endpoint:
    """Split an http or https URL.

    Raises:
        ValueError: another scheme, no host, credentials inside, white space or control characters.
    """
    if any(ord(char) <= 32 or ord(char) == 127 for char in url):
        raise ValueError(f"URL {url!r} holds white space or control characters: percent-encode them")
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError(f"URL {url!r} has scheme {parts.scheme!r}: only http and https are fetched")
    if "@" in parts.netloc:
        raise ValueError(
            f"URL for {parts.hostname!r} holds a user name or password: send them as an Authorization header"
        )
    if not parts.hostname:
        raise ValueError(f"URL {url!r} names no host: expected http://host/path")
    try:
        host = parts.hostname if ":" in parts.hostname else parts.hostname.encode("idna").decode("ascii")
        port = parts.port if parts.port is not None else _DEFAULT_PORTS[parts.scheme]
    except ValueError as wrong:  # UnicodeError, of a label too long or empty, is one too
        raise ValueError(f"URL {url!r} has a wrong host or port: {wrong}") from None
    if port == 0:
        raise ValueError(f"URL {url!r} has port 0: expected 1 to 65535")
    path = quote(parts.path, safe=_SAFE_IN_TARGET) or "/"
    query = f"?{quote(parts.query, safe=_SAFE_IN_TARGET)}" if parts.query else ""
    return Endpoint(parts.scheme, host, port, path + query)


def check_headers(headers: dict[str, str]) -> None:
    """Refuse headers that could smuggle in a second request or contradict the connection's own.

    Raises:
        ValueError: a name that is no token, a value with control characters, a header set by the exchange.
    """
    for name, value in headers.items():
        if not name or not all(char.isascii() and (char.isalnum() or char in "!#$%&'*+-.^_`|~") for char in name):
            raise ValueError(f"header name {name!r} is not allowed: letters, digits and hyphens only")
        if name.lower() in ("host", "connection", "content-length", "transfer-encoding"):
            raise ValueError(f"header {name!r} is set by the fetch itself: leave it out")
        if any((ord(char) < 32 and char != "\t") or ord(char) == 127 or ord(char) > 255 for char in value):
            raise ValueError(f"value of header {name!r} holds control or non-Latin-1 characters: encode them")


async def exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    endpoint: Endpoint,
    method: str,
    headers: dict[str, str],
    max_bytes: int,
) -> Response:
    """Send one request on an open connection and read its response.

    Raises:
        ConnectionError: the server's bytes are not HTTP/1.x, or end in the middle.
        ValueError: the body is longer than `max_bytes`; where Content-Length says so, nothing is read.
    """
    given = {name.lower() for name in headers}
    lines = [f"{method} {endpoint.target} HTTP/1.1", f"Host: {endpoint.host_header}", "Connection: close"]
    # The body is handed on as it is, so an encoding must not be offered that the reader would have to undo.
    defaults = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "shmq-workers"}
    lines += [f"{name}: {value}" for name, value in defaults.items() if name.lower() not in given]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    await writer.drain()
    try:
        status, reason, received = await _final_head(reader)
        has_body = method != "HEAD" and status not in _BODILESS
        body = await _body(reader, received, max_bytes) if has_body else b""
    except asyncio.IncompleteReadError as cut:
        raise ConnectionError(
            f"{endpoint.host_header} closed the connection in the middle of its response, "
            f"{len(cut.partial)} bytes into what was being read: try again, or look at that server"
        ) from None
    return Response(status, reason, received, body)


async def _final_head(reader: asyncio.StreamReader) -> tuple[int, str, dict[str, str]]:
    for _ in range(_MAX_INTERIM):
        status, reason = _status(await _line(reader))
        headers = await _headers(reader)
        if status >= 200:
            return status, reason, headers
    raise ConnectionError(f"server sent {_MAX_INTERIM} interim responses and no final one: not a working HTTP server")


def _status(line: str) -> tuple[int, str]:
    version, _, rest = line.partition(" ")
    code, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or len(code) != 3 or not code.isascii() or not code.isdigit() or code < "100":
        raise ConnectionError(f"server answered {line[:80]!r}, which is not HTTP/1.x: is this the right port?")
    return int(code), reason


async def _headers(reader: asyncio.StreamReader) -> dict[str, str]:
    headers: dict[str, str] = {}
    size_bytes = count = 0
    while line := await _line(reader):
        count, size_bytes = count + 1, size_bytes + len(line)
        if count > MAX_HEADERS or size_bytes > MAX_HEAD_BYTES:
            raise ConnectionError(
                f"server sent more than {MAX_HEADERS} headers or {MAX_HEAD_BYTES} bytes of them: refused"
            )
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise ConnectionError(f"server sent {line[:80]!r} where a header was expected")
        key, value = name.lower(), value.strip()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return headers


async def _body(reader: asyncio.StreamReader, headers: dict[str, str], max_bytes: int) -> bytes:
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if coding.lower() != "chunked":
            raise ConnectionError(f"server used transfer encoding {coding!r}: only chunked is understood")
        return await _chunked_body(reader, max_bytes)
    length = headers.get("content-length")
    if length is None:
        body = bytearray()
        while piece := await reader.read(64 * 1024):
            body += piece
            _check_size(len(body), max_bytes)
        return bytes(body)
    size = _number(length, 10)
    _check_size(size, max_bytes)
    return await reader.readexactly(size)


async def _chunked_body(reader: asyncio.StreamReader, max_bytes: int) -> bytes:
    body = bytearray()
    while size := _number((await _line(reader)).partition(";")[0].strip(), 16):
        _check_size(len(body) + size, max_bytes)
        body += await reader.readexactly(size)
        if await _line(reader):
            raise ConnectionError("server sent a chunk longer than it said")
    await _headers(reader)  # trailers: bounded and dropped
    return bytes(body)


async def _line(reader: asyncio.StreamReader) -> str:
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        raise ConnectionError("server sent a line without end: not HTTP, or the wrong port") from None
    return line.decode("latin-1").rstrip("\r\n")


def _number(text: str, radix: int) -> int:
    # int() alone would take signs, underscores and spaces, which another reader of the same bytes may not
    digits = "0123456789abcdef"[:radix]
    if not text or len(text) > 16 or any(char not in digits for char in text.lower()):
        raise ConnectionError(f"server sent {text[:40]!r} as the length of its body")
    return int(text, radix)


def _check_size(size_bytes: int, max_bytes: int) -> None:
    if size_bytes > max_bytes:
        raise ValueError(
            f"body is {size_bytes} bytes or more, max_bytes is {max_bytes}: raise that if you want all of it"
        )
