"""From a URL to an open WebSocket, or to an error that says what is wrong: TCP, TLS, handshake, all under one deadline.

Not here: messages (plain). The one rule: trio-websocket never sees the network, only a `Wire`, and its reader task
never runs bare; so a reader that ends early ends the waiting too, and an answer that is not 101 is kept for the error.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast
from urllib.parse import urlsplit

import h11
import msgspec
import trio
import trio_websocket

from relay.client.errors import ConnectFailed, ConnectionRefused

RECEIVE_BYTES: Final = 65536
HEAD_BYTES: Final = 65536  # of an answer that is not 101, head and body
QUEUE: Final = 16  # messages read ahead, so that pings are answered while the user is busy

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE: Final = re.compile(r"(?:[!-~](?:[ -~\t]*[!-~])?)?")


Pair: TypeAlias = "tuple[str | os.PathLike[str], str | os.PathLike[str]]"
"""PEM files of a certificate, with those that lead to its authority, and of its key."""


@dataclass(slots=True, frozen=True)
class Target:
    """Where a URL leads. `resource` is path and query."""

    secure: bool
    host: str
    port: int
    resource: str

    @classmethod
    def of(cls, url: str) -> Target:
        """Raises ValueError for what is not a ws:// or wss:// URL."""
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError(f"not a ws:// or wss:// URL: {url!r}")
        if parts.username is not None:
            raise ValueError("credentials do not belong in the URL: use token=")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError(f"a URL is printable ASCII, with %XX for all else: {url!r}")
        secure = parts.scheme == "wss"
        resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(secure, parts.hostname, parts.port or (443 if secure else 80), resource)

    @property
    def authority(self) -> str:
        """As the Host header has it (RFC 9110 section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.host} port {self.port}"


class Wire(trio.abc.Stream):
    """The stream trio-websocket reads and writes.

    Keeps the answer to the handshake until it is known to be 101, notes when anything was last heard, and drops the
    connection when a write was cancelled half way: the next frame would begin inside the unfinished one.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.answer: bytearray | None = bytearray()  # None once it began with a whole head of status 101
        self.heard_at = trio.current_time()
        self.torn = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()  # a cancellation that is already there may come here, where nothing is out yet
        try:
            await self._stream.send_all(data)
        except trio.Cancelled:
            self.torn = True
            await trio.aclose_forcefully(self._stream)
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        self.heard_at = trio.current_time()
        if self.answer is not None and len(self.answer) < HEAD_BYTES:
            self.answer += data
            if self.answer.startswith(b"HTTP/1.1 101") and b"\r\n\r\n" in self.answer:
                self.answer = None
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


class Reader:
    """Runs trio-websocket's reader task. Stands where it expects a nursery, and is one in the only way it uses it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._waiting: set[trio.CancelScope] = set()
        self.ended = False
        self.failure: Exception | None = None

    def start_soon(self, reader_task: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(self._run, reader_task)

    async def _run(self, reader_task: Callable[[], Awaitable[None]]) -> None:
        try:
            await reader_task()
        except Exception as error:  # a server's odd bytes must end this connection, not the user's nursery
            self.failure = error
        finally:
            self.ended = True
            for scope in self._waiting:
                scope.cancel()

    @contextlib.contextmanager
    def awaited(self, seconds: float = math.inf) -> Iterator[None]:
        """A scope that ends with the reader: trio-websocket would wait on for what only the reader can bring."""
        with trio.move_on_after(seconds) as scope:
            if self.ended:
                scope.cancel()
            self._waiting.add(scope)
            try:
                yield
            finally:
                self._waiting.discard(scope)


@contextlib.asynccontextmanager
async def quiet_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery out of which the body's exception comes as it was raised, not in a group of one."""
    only: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        real = [error for error in group.exceptions if not isinstance(error, trio.Cancelled)]
        if len(real) > 1:
            raise
        only = real[0] if real else group.exceptions[0]
    if only is not None:
        context = only.__context__
        try:
            raise only
        finally:
            only.__context__ = context
            del only, context


def header_fields(token: str | None, headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Header fields as bytes, the token among them. Raises ValueError; the text never holds the token."""
    fields = list(headers)
    for name, value in fields:
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"header {name!r} cannot be sent")
    if token is not None:
        if not token or not _HEADER_VALUE.fullmatch(token):
            raise ValueError("the token is empty, or holds characters no token has (a line end?)")
        fields.append(("Authorization", f"Bearer {token}"))
    return [(name.encode(), value.encode()) for name, value in fields]


async def dial(
    nursery: trio.Nursery,
    target: Target,
    *,
    ca_file: str | os.PathLike[str] | None,
    subprotocols: Iterable[str],
    fields: list[tuple[bytes, bytes]],
    max_message_bytes: int,
    unix: str | os.PathLike[str] | None = None,
    client_certificate: Pair | None = None,
) -> tuple[trio_websocket.WebSocketConnection, Wire, Reader]:
    """Opens a WebSocket; its reader runs in `nursery`, the deadline is the caller's.

    Raises ConnectFailed, ConnectionRefused.
    """
    wire = Wire(await _open_stream(target, ca_file, unix, client_certificate))
    reader = Reader(nursery)
    connection = None
    try:
        with reader.awaited():
            connection = await trio_websocket.wrap_client_stream(
                cast(trio.Nursery, reader),
                cast("trio.SocketStream", wire),
                target.authority,
                target.resource,
                subprotocols=list(subprotocols),
                extra_headers=fields,
                message_queue_size=QUEUE,
                max_message_size=max_message_bytes,
                receive_buffer_size=RECEIVE_BYTES,
            )
        if connection is None:
            raise _refusal(target, bytes(wire.answer or b""), reader.failure)
    except BaseException:
        await trio.aclose_forcefully(wire)
        raise
    return connection, wire, reader


async def _open_stream(
    target: Target,
    ca_file: str | os.PathLike[str] | None,
    unix: str | os.PathLike[str] | None,
    client_certificate: Pair | None,
) -> trio.abc.Stream:
    context = None
    if target.secure:  # in a thread: reading the system's authorities takes tens of milliseconds
        context = await trio.to_thread.run_sync(_make_context, ca_file, client_certificate)
    try:
        if unix is not None:
            stream = await trio.open_unix_socket(unix)
        else:
            stream = await trio.open_tcp_stream(target.host, target.port)
            _keep_alive(stream)
    except OSError as error:
        where = target if unix is None else os.fspath(unix)
        raise ConnectFailed(f"cannot connect to {where}: {_innermost(error)}", "is the relay running?") from None
    if context is None:
        return stream
    secured = trio.SSLStream(stream, context, server_hostname=target.host, https_compatible=True)
    try:
        await secured.do_handshake()
    except (trio.BrokenResourceError, ssl.CertificateError) as error:
        await trio.aclose_forcefully(secured)
        raise _tls_failure(target, error.__cause__ or error) from None
    except BaseException:
        await trio.aclose_forcefully(secured)
        raise
    return secured


def _make_context(ca_file: str | os.PathLike[str] | None, client_certificate: Pair | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConnectFailed(f"cannot read the authorities in {ca_file}: {error}") from None
    if client_certificate is not None:
        certificate, key = client_certificate
        try:
            context.load_cert_chain(certificate, key, password="")  # one that is encrypted fails, and asks nobody
        except (OSError, ValueError) as error:
            raise ConnectFailed(f"cannot use the client certificate {certificate} with {key}: {error}") from None
    context.set_alpn_protocols(["http/1.1"])
    return context


def _keep_alive(stream: trio.SocketStream) -> None:
    """Has the kernel find out within a minute that the other machine is gone, where it can."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)


def _innermost(error: BaseException) -> str:
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif error.__cause__ is not None:
            error = error.__cause__
        elif isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
            return os.strerror(error.errno)  # without the address that Trio puts in front
        else:
            return getattr(error, "strerror", None) or str(error)


def _tls_failure(target: Target, error: BaseException) -> ConnectFailed:
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectFailed(
            f"the certificate of {target} is not trusted: {error.verify_message}",
            "give its authority as ca_file, as in certs/ca.pem",
        )
    reason = getattr(error, "reason", None) or str(error) or "the connection was cut"
    hint = "does it speak ws:// without TLS?" if reason == "WRONG_VERSION_NUMBER" else ""
    return ConnectFailed(f"no TLS with {target}: {reason}", hint)


def _refusal(target: Target, answer: bytes, failure: Exception | None) -> ConnectFailed | ConnectionRefused:
    """What the bytes say that came instead of a 101."""
    if not answer:
        return ConnectFailed(f"{target} closed the connection without an answer", "does it speak wss:// with TLS?")
    machine = h11.Connection(h11.CLIENT)
    machine.send(h11.Request(method="GET", target="/", headers=[("Host", "-")]))
    machine.send(h11.EndOfMessage())
    status, headers, body = 0, {}, b""
    try:
        machine.receive_data(answer)
        machine.receive_data(b"")
        while True:
            event = machine.next_event()
            if isinstance(event, h11.Response | h11.InformationalResponse):
                status = event.status_code
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                break
    except h11.RemoteProtocolError:
        pass  # what came until then is all there is
    if status in (0, 101):
        why = str(failure) if failure is not None else "not HTTP"
        return ConnectFailed(f"{target} does not answer as a WebSocket server: {why or type(failure).__name__}")
    words = _words(body)
    reason = words.get("reason") or body.decode("utf-8", "replace").strip()[:500]
    if not reason and "location" in headers:
        reason = f"moved to {headers['location']}"
    retry = headers.get("retry-after", "")
    return ConnectionRefused(
        status,
        reason,
        code=words.get("error", ""),
        setting=words.get("setting"),
        retry_after=float(retry) if retry.isascii() and retry.isdigit() else None,
        body=body,
    )


def _words(body: bytes) -> dict[str, str]:
    """The relay's own refusal: a JSON object of texts; anything else is {}."""
    try:
        found: Any = msgspec.json.decode(body, type=dict[str, str])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return cast("dict[str, str]", found)
