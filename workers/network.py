"""Tasks for the `network` group: fetch, probe, resolve. All are `async`: one worker runs many at once.

Every task bounds what the other side can cost: time, bytes, redirects. No proxy is used.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import ipaddress
import math
import os
import socket
import ssl
import time
from typing import Literal
from urllib.parse import urljoin

import msgspec

import shmq
from workers.http_exchange import Endpoint, Response, check_headers, exchange, parse_url

MAX_TIMEOUT_S = 300.0
MAX_BODY_BYTES = 256 * 1024 * 1024
MAX_REDIRECTS = 20
MAX_PORTS = 4096
_PROBES_AT_ONCE = 64
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CREDENTIALS = frozenset({"authorization", "cookie"})

Family = Literal["any", "ipv4", "ipv6"]
_FAMILIES: dict[Family, socket.AddressFamily] = {
    "any": socket.AF_UNSPEC,
    "ipv4": socket.AF_INET,
    "ipv6": socket.AF_INET6,
}


class FetchResult(msgspec.Struct, frozen=True):
    """What came back; `url` is the last one after the redirects, which lists the ones before it."""

    url: str
    status: int
    reason: str
    headers: dict[str, str]
    body: bytes
    redirects: list[str]
    elapsed_s: float


class PortState(msgspec.Struct, frozen=True):
    """Outcome for one port: `detail` is open, refused, timed out, or the system's reason."""

    port: int
    is_open: bool
    detail: str
    elapsed_s: float


@shmq.task(
    group="network",
    retries=2,
    retry_on=OSError,
    give_up_on=PermissionError,
    timeout=MAX_TIMEOUT_S + 30.0,
    idempotent=True,
)
async def fetch(
    url: str,
    *,
    method: Literal["GET", "HEAD"] = "GET",
    headers: dict[str, str] | None = None,
    timeout_s: float = 10.0,
    max_bytes: int = 8 * 1024 * 1024,
    max_redirects: int = 5,
    public_only: bool = False,
) -> FetchResult:
    """Fetch an http or https URL. Idempotent: GET and HEAD only ask.

    A status of 400 or more is a result, not an error. Certificates are checked. Authorization and Cookie
    headers are not carried to another origin, and a redirect from https to http is refused.

    Args:
        url: only http and https, without credentials.
        timeout_s: for everything together, redirects included; up to 300.
        max_bytes: longest body taken, up to 256 MiB.
        max_redirects: 0 to 20; past it the task fails.
        public_only: refuse loopback, private and link-local addresses; for URLs that strangers supply. The
            address connected to is checked, on every redirect: a name that changes its address does not help.

    Raises:
        ValueError: bad argument, body longer than `max_bytes`, too many or unsafe redirects.
        PermissionError: an address that is not public, with `public_only`.
        TimeoutError: not done within `timeout_s`.
        OSError: no such host, no connection, bad certificate, or not HTTP (ConnectionError).
    """
    sent = dict(headers or {})
    check_headers(sent)
    if method not in ("GET", "HEAD"):
        raise ValueError(f"method is {method!r}: fetch asks only, with GET or HEAD")
    _check_timeout(timeout_s)
    if not 0 <= max_bytes <= MAX_BODY_BYTES:
        raise ValueError(f"max_bytes is {max_bytes}: expected 0 to {MAX_BODY_BYTES}")
    if not 0 <= max_redirects <= MAX_REDIRECTS:
        raise ValueError(f"max_redirects is {max_redirects}: expected 0 to {MAX_REDIRECTS}")
    endpoint, started, passed = parse_url(url), time.monotonic(), list[str]()
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                response = await _one_exchange(endpoint, method, sent, max_bytes, public_only)
                location = response.headers.get("location")
                if response.status not in _REDIRECTS or location is None:
                    break
                passed.append(url)
                url, endpoint = _redirected(url, endpoint, location, sent, passed, max_redirects)
    except TimeoutError:
        raise TimeoutError(
            f"{url!r} was not fetched within timeout_s={timeout_s:g}: "
            "the server is slow or silent, raise timeout_s or try later"
        ) from None
    return FetchResult(
        url,
        response.status,
        response.reason,
        response.headers,
        response.body,
        passed,
        time.monotonic() - started,
    )


@shmq.task(group="network", retries=0, timeout=MAX_TIMEOUT_S + 30.0, idempotent=True)
async def port_probe(host: str, ports: list[int], timeout_s: float = 2.0) -> list[PortState]:
    """Try to open TCP connections and say which ports answer. Idempotent: it connects and sends nothing.

    Args:
        host: name or address; of a name all addresses are tried, in turn.
        ports: 1 to 4,096 ports; 64 of them are tried at a time.
        timeout_s: for the look-up, and again for each port; all together the task's limit of 330 s holds.

    Returns:
        One state per port, in the order given. A closed or silent port is a result, not an error.

    Raises:
        ValueError: no or too many ports, a port outside 1 to 65535, unusable host or time.
        OSError: the host has no address.
    """
    _check_timeout(timeout_s)
    if not 1 <= len(ports) <= MAX_PORTS:
        raise ValueError(f"{len(ports)} ports given: expected 1 to {MAX_PORTS}, split longer lists into several jobs")
    for port in ports:
        if not 1 <= port <= 65535:
            raise ValueError(f"port {port} does not exist: expected 1 to 65535")
    addresses = await _addresses(host, "any", timeout_s)
    gate = asyncio.Semaphore(_PROBES_AT_ONCE)

    async def probe_in_turn(port: int) -> PortState:
        async with gate:
            return await _probe(addresses, port, timeout_s)

    async with asyncio.TaskGroup() as probes:
        running = [probes.create_task(probe_in_turn(port)) for port in ports]
    return [probe.result() for probe in running]


@shmq.task(group="network", retries=2, retry_on=OSError, timeout=MAX_TIMEOUT_S + 30.0, idempotent=True)
async def resolve(host: str, family: Family = "any", timeout_s: float = 5.0) -> list[str]:
    """Look up the addresses of a host, as this machine's resolver gives them. Idempotent: it only asks.

    Returns:
        Addresses as text, each once, in the resolver's order of preference.

    Raises:
        ValueError: empty host, unknown family, unusable time.
        TimeoutError: no answer within `timeout_s`.
        OSError: the host has no address of that family.
    """
    _check_timeout(timeout_s)
    return await _addresses(host, family, timeout_s)


async def _one_exchange(
    endpoint: Endpoint, method: str, headers: dict[str, str], max_bytes: int, public_only: bool
) -> Response:
    reader, writer = await _connect(endpoint, public_only)
    try:
        return await exchange(reader, writer, endpoint, method, headers, max_bytes)
    finally:
        writer.transport.abort()  # the response is complete or unwanted: no TLS farewell to wait for


async def _connect(endpoint: Endpoint, public_only: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    addresses = await _addresses(endpoint.host, "any", MAX_TIMEOUT_S)
    if public_only:
        _check_public(endpoint.host, addresses)
    tls = _tls() if endpoint.scheme == "https" else None
    name = endpoint.host if tls else None
    failures: list[str] = []
    for address in addresses:
        try:
            return await asyncio.open_connection(address, endpoint.port, ssl=tls, server_hostname=name)
        except ssl.SSLError as wrong:
            raise ConnectionError(
                f"no TLS with {endpoint.host_header}: {wrong}. Wrong port, or its certificate is bad."
            ) from None
        except OSError as wrong:
            failures.append(f"{address}: {_reason(wrong)}")
    raise ConnectionError(
        f"no connection to {endpoint.host} port {endpoint.port} ({'; '.join(failures)}): "
        "is the server up, and the port right?"
    )


def _redirected(
    url: str,
    endpoint: Endpoint,
    location: str,
    headers: dict[str, str],
    passed: list[str],
    max_redirects: int,
) -> tuple[str, Endpoint]:
    if len(passed) > max_redirects:
        raise ValueError(
            f"{passed[0]!r} was redirected more than max_redirects={max_redirects} times, "
            f"last to {location!r}: a loop, or raise max_redirects"
        )
    following = urljoin(url, location)
    target = parse_url(following)
    if endpoint.scheme == "https" and target.scheme == "http":
        raise ValueError(
            f"{url!r} redirects from https to {following!r}: refused, fetch that URL itself if you trust it"
        )
    if target.origin != endpoint.origin:
        for name in [name for name in headers if name.lower() in _CREDENTIALS]:
            del headers[name]
    return following, target


async def _addresses(host: str, family: Family, timeout_s: float) -> list[str]:
    if not host or any(ord(char) <= 32 or ord(char) == 127 for char in host):
        raise ValueError(f"host {host!r} is empty or holds white space: pass a name or an address")
    if family not in _FAMILIES:
        raise ValueError(f"family is {family!r}: expected {', '.join(_FAMILIES)}")
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            found = await loop.getaddrinfo(host, None, family=_FAMILIES[family], type=socket.SOCK_STREAM)
    except TimeoutError:
        raise TimeoutError(
            f"no address of {host!r} within {timeout_s:g} s: the resolver is slow or unreachable"
        ) from None
    except UnicodeError:
        raise ValueError(f"host {host!r} is not a host name: a label is empty or longer than 63") from None
    except socket.gaierror as wrong:
        # a plain OSError, because it travels back to the producer as itself
        raise OSError(
            f"no address (family {family}) of {host!r}: {wrong.strerror}; check the name, or the resolver"
        ) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _check_public(host: str, addresses: list[str]) -> None:
    for address in addresses:
        ip = ipaddress.ip_address(address.partition("%")[0])
        ip = getattr(ip, "ipv4_mapped", None) or ip
        if not ip.is_global or ip.is_multicast:
            raise PermissionError(f"{host!r} is at {address}, which is not a public address: refused by public_only")


async def _probe(addresses: list[str], port: int, timeout_s: float) -> PortState:
    started = time.monotonic()
    detail = "no address"
    try:
        async with asyncio.timeout(timeout_s):
            for address in addresses:
                detail = await _try_port(address, port)
                if detail == "open":
                    break
    except TimeoutError:
        detail = "timed out"
    return PortState(port, detail == "open", detail, time.monotonic() - started)


async def _try_port(address: str, port: int) -> str:
    try:
        _, writer = await asyncio.open_connection(address, port)
    except OSError as wrong:
        return _reason(wrong)
    writer.transport.abort()
    return "open"


def _reason(wrong: OSError) -> str:
    if wrong.errno in (errno.ECONNREFUSED, errno.ECONNRESET):
        return "refused"
    return os.strerror(wrong.errno).lower() if wrong.errno else str(wrong)


def _check_timeout(timeout_s: float) -> None:
    if not (math.isfinite(timeout_s) and 0 < timeout_s <= MAX_TIMEOUT_S):
        raise ValueError(f"timeout_s is {timeout_s}: expected more than 0 and at most {MAX_TIMEOUT_S:g} seconds")


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()  # reads the certificate store: once per worker, not per fetch
