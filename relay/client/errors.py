"""How a connection fails, as a client sees it.

    ClientError
    ├── ConnectFailed       nobody there, no TLS, no answer in time
    ├── ConnectionRefused   a server answered, with an HTTP status instead of a WebSocket
    ├── Disconnected        an open connection ended: close code and reason
    └── Withdrawn           an upload was given up before it was whole

    Refused                 a request was refused, the connection lives on; by its code, one of
    ├── Forbidden           forbidden, unauthorized
    ├── NoSuchRoom          no_such_room, bad_room
    ├── RoomClosed          room_closed, frozen
    ├── NotJoined           not_joined
    ├── NoSuchSubject       no_such_subject
    ├── NoSuchMethod        no_such_method
    ├── RateLimited         rate_limited, too_many_requests: `retry_after` may say when
    ├── TimedOut            timeout
    └── Unavailable         unavailable, plugin_off, in_progress, internal: later it may do

The one rule: the reason is what the other side said, unshortened; where it said nothing, the text says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relay.errors import CLOSE_CODES, CloseCode, Refused, RelayError

if TYPE_CHECKING:
    from relay.client.events import Refusal

LOST: Final = 1006
"""Close code of a connection that ended without a close frame (RFC 6455 section 7.1.5)."""


class ClientError(RelayError):
    """Base of what the client raises on purpose, but for `Refused`."""


class ConnectFailed(ClientError):
    """There is no WebSocket server to talk to: the network, TLS, or time. `hint` says what may help."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(f"{what} ({hint})" if hint else what)
        self.what = what
        self.hint = hint


class ConnectionRefused(ClientError):
    """The handshake was answered with HTTP `status`, not 101.

    `code`, `reason` and `setting` are the relay's own words when the body holds them; otherwise `reason` is the body's
    text. `retry_after` is in seconds, None: the server named no time.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        *,
        code: str = "",
        setting: str | None = None,
        retry_after: float | None = None,
        body: bytes = b"",
    ) -> None:
        what = f"HTTP {status}" + (f" {code}" if code else "") + (f": {reason}" if reason else "")
        super().__init__(what + (f" [{setting}]" if setting else ""))
        self.status = status
        self.reason = reason
        self.code = code
        self.setting = setting
        self.retry_after = retry_after
        self.body = body


class Disconnected(ClientError):
    """The connection is over. `code` and `reason` are those of the close frame; 1006: there was none.

    `reconnect_after` and `reconnect_jitter` are the seconds that the relay's `bye` asked for; None: it named none.
    """

    def __init__(
        self,
        code: int,
        reason: str = "",
        *,
        reconnect_after: float | None = None,
        reconnect_jitter: float = 0.0,
    ) -> None:
        super().__init__(f"{code}: {reason}" if reason else f"{code}")
        self.code = code
        self.reason = reason
        self.reconnect_after = reconnect_after
        self.reconnect_jitter = reconnect_jitter

    @property
    def retry(self) -> bool:
        """Whether coming back as one is makes sense: yes if the relay said so, or the connection was lost."""
        if self.reconnect_after is not None or self.code == LOST:
            return True
        return self.code in CLOSE_CODES and CLOSE_CODES[CloseCode(self.code)][1]

    def again(self) -> Disconnected:
        """The same, to be raised once more: an exception raised twice drags its first traceback along."""
        return Disconnected(
            self.code,
            self.reason,
            reconnect_after=self.reconnect_after,
            reconnect_jitter=self.reconnect_jitter,
        )


class Withdrawn(ClientError):
    """A message in parts was given up before the last one was sent: nobody has heard it."""


class Forbidden(Refused):
    """The token does not grant it, or is over."""


class NoSuchRoom(Refused):
    """No plugin serves a room of that name, or it is no name."""


class RoomClosed(Refused):
    """An operator has closed the room, or nobody may publish in it for now."""


class NotJoined(Refused):
    """One has to be in the room for that."""


class NoSuchSubject(Refused):
    """Nobody of that name, who could confirm, is in the room; nothing was published."""


class NoSuchMethod(Refused):
    """The plugin of the room has no such method."""


class RateLimited(Refused):
    """Too much at once."""


class TimedOut(Refused):
    """A plugin has not answered, or nobody has confirmed, in time. It may have been done all the same."""


class Unavailable(Refused):
    """Not just now."""


REFUSALS: Final[dict[str, type[Refused]]] = {
    "forbidden": Forbidden, "unauthorized": Forbidden,
    "no_such_room": NoSuchRoom, "bad_room": NoSuchRoom,
    "room_closed": RoomClosed, "frozen": RoomClosed,
    "not_joined": NotJoined, "no_such_subject": NoSuchSubject, "no_such_method": NoSuchMethod,
    "rate_limited": RateLimited, "too_many_requests": RateLimited, "timeout": TimedOut,
    "unavailable": Unavailable, "plugin_off": Unavailable, "in_progress": Unavailable, "internal": Unavailable,
}  # fmt: skip
"""All other codes, those of plugins among them, are `Refused` itself."""


def refused(no: Refusal) -> Refused:
    """The exception for what the relay has said."""
    return REFUSALS.get(no.code, Refused)(no.code, no.message, retry_after=no.retry_after, setting=no.setting)
