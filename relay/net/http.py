"""One HTTP/1.1 connection, server side: requests in, responses out, and the hand-over to WebSocket.

Not here: the rules for a head (head), which path does what (routes), the upgrade check (handshake), deadlines (the
caller's). The one rule: no byte is lost. h11 sees nothing beyond the current request's body, so what follows (the next
request, or the first frames of a client that does not wait for the 101) stays in our hands; each request gets an h11
machine of its own.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, Final, Protocol

import h11
import msgspec
import trio

from relay.auth.certificates import ClientCertificate
from relay.config.schema import Limits
from relay.errors import Rejected
from relay.net.head import Headers, HeadScanner, Plain, Request, malformed, read_plain

__all__ = ["ByteStream", "HTTPConnection", "Headers", "Request", "Response"]

LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 65536
_HSTS: Final = "max-age=31536000"  # a year; the grade A+ of SSL Labs asks for at least half of one
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD_VALUE: Final = re.compile(r"(?:[!-~](?:[ -~\t]*[!-~])?)?")
_json = msgspec.json.Encoder()


class ByteStream(Protocol):
    """What HTTP needs of a connection. Trio's streams are such, and so is the relay's own TLS transport.

    Both methods raise trio.BrokenResourceError when the connection breaks.
    """

    async def receive_some(self) -> bytes | bytearray:
        """At least one byte, or b"" at the end."""
        ...

    async def send_all(self, data: bytes) -> None: ...


class Response:
    """One response. Content-Length, Content-Type, Date and the security headers are added; `headers` are the others.

    Raises ValueError for header text that cannot be sent, so that the mistake shows where it was made.
    """

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        status: int = 200,
        body: bytes = b"",
        content_type: str = "text/plain; charset=utf-8",
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = list(headers)
        self.check()

    def check(self) -> None:
        """Raise ValueError for header text that cannot be sent. Again, because `headers` can be added to."""
        for name, value in [*self.headers, ("Content-Type", self.content_type)]:
            if not _FIELD_NAME.fullmatch(name) or not _FIELD_VALUE.fullmatch(value):
                raise ValueError(f"header {name!r} cannot be sent")

    @classmethod
    def json(cls, data: Any, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Response:
        """`data` as a JSON document. Raises TypeError for what JSON cannot express."""
        return cls(status, _json.encode(data), "application/json", headers)

    @classmethod
    def from_rejected(cls, rejected: Rejected) -> Response:
        """The answer to a refused request: `{"error": code, "reason": sentence, "setting": config key if any}`.

        With Retry-After in whole seconds (RFC 9110 section 10.2.3) and, for 401, WWW-Authenticate (section 11.6.1).
        """
        body = {"error": rejected.code, "reason": rejected.reason}
        if rejected.setting is not None:
            body["setting"] = rejected.setting
        headers = [("Cache-Control", "no-store"), *rejected.headers]
        if rejected.retry_after is not None:
            headers.append(("Retry-After", str(math.ceil(rejected.retry_after))))
        if rejected.status == 401 and not any(name.lower() == "www-authenticate" for name, _ in headers):
            headers.append(("WWW-Authenticate", "Bearer"))
        return cls.json(body, rejected.status, headers)

    def __repr__(self) -> str:
        return f"<Response {self.status} {len(self.body)} B>"


class HTTPConnection:
    """Requests of one connection, strictly one after the other: next_request, respond, next_request, ...

    `remote` is the client's address as text; `tls` says whether the client came over TLS, here or at a proxy. `client`
    may say whose address each request is from, given its headers and the address before.
    What the stream raises passes through, except in `finish`.
    """

    __slots__ = (
        "_certificate",
        "_head",
        "_head_only",
        "_limits",
        "_lost",
        "_made",
        "_peer",
        "_request",
        "_rest",
        "_stream",
        "client",
        "remote",
        "tls",
    )

    def __init__(
        self,
        stream: ByteStream,
        limits: Limits,
        *,
        remote: str = "",
        tls: bool = True,
        client: Callable[[Headers, str], str] | None = None,
        certificate: ClientCertificate | None = None,
        received: bytes | bytearray = b"",
        cut_off: bool = False,
    ) -> None:
        """`received`: what was read of the stream before. `cut_off`: that is no whole request, and there will be no
        more of it; all that can be done is to refuse it.
        """
        self._stream = stream
        self._limits = limits
        self._peer = self.remote = remote
        self.client = client
        self._certificate = certificate
        self.tls = tls
        self._rest = bytearray(received)  # and not of the current request
        self._made: h11.Connection | None = None
        self._head = b""  # of the current request, if h11 has not seen it
        self._request: Request | None = None
        self._head_only = False  # the request is HEAD: its answer is the head alone
        self._lost = cut_off  # nobody knows any more where the next request would begin

    async def wait_for_request(self) -> bool:
        """Wait for the first byte of the next request: True, or False when the client ended the connection instead."""
        if self._rest:
            await trio.lowlevel.checkpoint()
        else:
            self._rest += await self._stream.receive_some()
        return bool(self._rest)

    async def next_request(self) -> Request | None:
        """The next request, its head complete; None when the client ended the connection before its first byte.

        Raises Rejected: 400, 431, 501 or 505; pass it to `refuse`: the connection cannot go on.
        """
        if (self._made is not None or self._head) and self._h11.our_state is not h11.IDLE:
            if not self.reusable:
                raise RuntimeError("the last request is not answered, or the connection must end")
            self._made = None
        self._request = None
        self._head_only = False
        if not await self.wait_for_request():
            return None
        self._lost = True  # until we have come through
        most = self._limits.head_bytes, self._limits.head_fields
        scanner = HeadScanner(*most)
        while (end := scanner.advance(self._rest)) is None:
            data = await self._stream.receive_some()
            if not data:
                raise malformed("the connection ended within the request head")
            self._rest += data
        plain = read_plain(self._rest, *most)
        if plain is not None:
            return self.begin(plain)
        self._h11.receive_data(bytes(self._rest[:end]))
        event = self._next_event()
        if not isinstance(event, h11.Request):  # the scanner saw a whole head
            raise malformed("not a request")
        del self._rest[:end]
        self._head_only = event.method == b"HEAD"
        headers = Headers((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers)
        version = event.http_version.decode("ascii")
        request = self._began(event.method.decode("ascii"), event.target.decode("ascii"), headers, version)
        self._next_event()  # without a body this is its end, and h11 knows that now
        self._lost = False
        return request

    def begin(self, plain: Plain) -> Request:
        """The next request, whose head is the first that was received and not read. Raises Rejected.

        A WebSocket's request is read like this, and h11 is not asked before an answer of ours needs it.
        """
        self._lost = True  # until we have come through
        self._head = bytes(self._rest[: plain.size])
        del self._rest[: plain.size]
        request = self._began("GET", plain.target, plain.headers, "1.1")
        self._lost = False
        return request

    def _began(self, method: str, target: str, headers: Headers, version: str) -> Request:
        """A request has begun. Raises Rejected."""
        if self.client is not None:  # a proxy may send requests of several clients on one connection
            self.remote = self.client(headers, self._peer)
        self._request = Request(
            method,
            target,
            headers,
            http_version=version,
            remote=self.remote,
            certificate=self._certificate,
            read_body=self._read_body,
        )
        return self._request

    async def _read_body(self, max_bytes: int, setting: str | None) -> bytes:
        await trio.lowlevel.checkpoint()
        too_large = Rejected(413, "too_large", f"the body exceeds {max_bytes} bytes", setting=setting)
        if self._request is not None and int(self._request.headers.get("content-length") or 0) > max_bytes:
            raise too_large  # before a byte of it is read, and before a waiting client is told to continue
        body = bytearray()
        while self._h11.their_state is h11.SEND_BODY:
            event = self._next_event()
            if isinstance(event, h11.Data):
                body += event.data
                if len(body) > max_bytes:
                    raise too_large
            elif event is h11.NEED_DATA:
                self._h11.receive_data(await self._more())
        return bytes(body)

    async def _more(self) -> bytes:
        if self._rest:
            data = bytes(self._rest)
            self._rest.clear()
            return data
        if self._h11.they_are_waiting_for_100_continue:
            await self._stream.send_all(self._h11.send(h11.InformationalResponse(status_code=100, headers=[])))
        return bytes(await self._stream.receive_some())

    def _next_event(self) -> Any:
        try:
            event = self._h11.next_event()
        except h11.RemoteProtocolError as error:
            self._lost = True
            part = "header fields are" if self._request is None else "body is"  # h11's own text quotes what was sent
            reason = f"the {part} malformed or cut off (RFC 9112)"
            raise Rejected(error.error_status_hint, "bad_request", reason) from None
        if isinstance(event, h11.EndOfMessage):
            self._rest[:0] = self._h11.trailing_data[0]  # the next request, which came glued to this one's body
        return event

    async def respond(self, response: Response, *, close: bool = False) -> None:
        """Answer the current request, or whatever it was that could not be read.

        `close` announces that this is the last answer; it is announced anyway where the connection cannot go on.
        """
        machine = self._h11
        close = close or self._lost or self.body_pending
        headers = [("Date", formatdate(time.time(), usegmt=True)), *self._security_headers(), *response.headers]
        if close:
            headers.append(("Connection", "close"))
        bodiless = response.status in (204, 304)  # RFC 9110 section 6.4.1
        if not bodiless:
            headers += [("Content-Length", str(len(response.body))), ("Content-Type", response.content_type)]
        data = machine.send(
            h11.Response(status_code=response.status, headers=headers, reason=_reason(response.status).encode("ascii"))
        )
        if response.body and not bodiless and not self._head_only:
            data += machine.send(h11.Data(data=response.body))
        data += machine.send(h11.EndOfMessage())
        lost, self._lost = self._lost, True  # half an answer, if we are cancelled now
        await self._stream.send_all(data)
        self._lost = lost

    async def refuse(self, rejected: Rejected) -> None:
        """The last answer, and `finish`: after it only closing is left. Nothing is sent if an answer has been begun."""
        if not self.answered:
            with trio.move_on_after(LINGER_SECONDS):  # a client that does not read cannot draw it out
                await self.respond(Response.from_rejected(rejected), close=True)
        await self.finish()

    def _security_headers(self) -> list[tuple[str, str]]:
        headers = [("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer")]
        if self.tls and self._request is not None and _may_demand_https(self._request.host):
            headers.append(("Strict-Transport-Security", _HSTS))
        return headers

    @property
    def reusable(self) -> bool:
        """The current request is read and answered to the end, and both sides want to go on."""
        return not self._lost and self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    @property
    def body_pending(self) -> bool:
        """The client has announced a body that nobody has read to its end."""
        return self._h11.their_state is h11.SEND_BODY

    @property
    def answered(self) -> bool:
        """A response to the current request has at least been begun: a second one would be taken for part of it."""
        return self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE)

    def take_early(self) -> bytes:
        """What came behind the request head: a client may send frames before it has seen the 101. It comes out once."""
        early = bytes(self._rest)
        self._rest.clear()
        return early

    async def finish(self) -> None:
        """After the last answer, before the close: read and drop what still comes, for 2 s and 64 KiB at most.

        Closing a socket with unread data resets the connection, and the reset can overtake the answer on its way to the
        application (RFC 9112 section 9.6). Without anything unread this returns at once.
        """
        await trio.lowlevel.checkpoint()
        if not (self._lost or self._rest or self.body_pending):
            return
        dropped = len(self._rest)
        self._rest.clear()
        with trio.move_on_after(LINGER_SECONDS):
            try:
                while dropped < LINGER_BYTES and (data := await self._stream.receive_some()):
                    dropped += len(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # it is over, which is what we waited for

    @property
    def _h11(self) -> h11.Connection:
        """h11's view of the current request; made when it is needed first."""
        machine = self._made
        if machine is None:
            machine = self._made = self._machine()
            if self._head:
                machine.receive_data(self._head)
                self._head = b""
                machine.next_event()  # the request: what `HeadScanner.plain` lets through, h11 does
                machine.next_event()  # its end
        return machine

    def _machine(self) -> h11.Connection:
        return h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head_bytes)


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _may_demand_https(host: str) -> bool:
    """Whether HSTS makes sense for the host asked for.

    Not for addresses (RFC 6797 section 8.1.1), and not for localhost: browsers apply it to every port, so it would
    force https on all the other projects of a developer.
    """
    name = host.lower().partition(":")[0]
    if not name or name.startswith("[") or name == "localhost" or name.endswith(".localhost"):
        return False
    try:
        ip_address(name)
    except ValueError:
        return True
    return False
