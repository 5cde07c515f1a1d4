"""The plain mode: what one sends, the others in the room receive, byte for byte; text stays text, binary stays binary.

There is no envelope, so answers and refusals cannot be told in band: a refused message is counted, and a client that
may not publish at all is closed with a reason. The one rule: nothing of ours ever appears between an application's
messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from relay.errors import CloseCode, CloseReason, Refused
from relay.model import Kind, Message, Payload
from relay.protocols.base import Auth, Command, Hello, ProtocolError, Publish, RequestId
from relay.protocols.frames import BINARY, TEXT, frame


class Plain:
    """WebSocket without a subprotocol, one room a socket."""

    name: Final = "plain"
    subprotocol: Final[str | None] = None
    bare: Final = True
    takes_parts: Final = False
    patches: Final = False

    def decode(self, opcode: int, payload: bytes, home: str) -> Command:
        return Publish(home, Payload(Kind.TEXT if opcode == 1 else Kind.BINARY, payload))

    def opening(self, opcode: int, payload: bytes) -> Auth:
        """The token, as it is, in one text message."""
        if opcode != TEXT:
            raise ProtocolError(CloseReason(CloseCode.UNSUPPORTED_DATA, "the first message is the token, as text"))
        return Auth(payload.decode().strip())

    def message(self, message: Message) -> bytes:
        data = message.data
        kind = data.kind
        if kind <= BINARY:
            return frame(kind, data.raw)
        kind, raw = data.plain()
        return frame(kind, raw)

    def announced(self, envelope: bytes) -> Publish:
        raise Refused("bad_part", "plain mode has no parts")

    def parted(self, envelope: bytes, payload: bytes) -> Command:
        raise Refused("bad_part", "plain mode has no parts")

    def request_in(self, envelope: bytes) -> None:
        return None

    def patch(self, message: Message, base: Message, patch: Payload) -> None:
        return None

    def parts(self, message: Message) -> None:
        return None

    def hello(self, hello: Hello) -> None:
        return None

    def ok(self, request: RequestId, result: dict[str, Any]) -> None:
        return None

    def error(self, request: RequestId, refused: Refused) -> None:
        return None

    def pong(self, request: RequestId) -> None:
        return None

    def joined(self, room: str, subject: str, claims: Mapping[str, Any] | None = None) -> None:
        return None

    def counted(self, room: str, count: int, events: bool) -> None:
        return None

    def left(self, room: str, subject: str, reason: str = "") -> None:
        return None

    def confirm(self, room: str, offset: int) -> None:
        return None

    def renamed(self, room: str, name: str) -> None:
        return None

    def gap(self, room: str, first: int, last: int, reason: str) -> None:
        return None

    def expiring(self, seconds: float) -> None:
        return None

    def bye(self, reason: CloseReason) -> None:
        return None
