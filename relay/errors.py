"""Every way the relay says no, as values: what the other side sees is decided here, in two tables.

Not here: who raises them. The one rule: a refusal carries the config key that caused it (`setting`), whenever there is
one.

    Rejected      before the 101: an HTTP status with a short body
    Refused       after it: an `error` with the request's id; the connection lives
    CloseReason   a value: the connection ends with `bye` and a close frame (RFC 6455 section 7.4)
    ConfigError   at start or reload: file, line, key and a hint for the operator; exit status 78
    PluginError   the same, for a plugin that cannot be loaded
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class RelayError(Exception):
    """Base of what the relay raises on purpose. Any other exception is a bug."""


class Rejected(RelayError):
    """The handshake is answered with HTTP `status` and a short body; there will be no WebSocket.

    `code` is a stable word for machines, `reason` one sentence for people, `retry_after` seconds (RFC 9110 section
    10.2.3),
    `setting` the config key that caused it, `close_code` what a client is told where the setting
    `websocket.accept_then_close`
    asks for a close frame instead of a status (a browser hides the status behind 1006). `why` is what the operator is
    told in the place of `reason`, where the client may not know.
    """

    why: str = ""

    def __init__(
        self,
        status: int,
        code: str,
        reason: str,
        *,
        retry_after: float | None = None,
        setting: str | None = None,
        close_code: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(f"{status} {code}: {reason}")
        self.status = status
        self.code = code
        self.reason = reason
        self.retry_after = retry_after
        self.setting = setting
        self.close_code = close_code or CLOSE_FOR_STATUS.get(status, CloseCode.POLICY)
        self.headers = headers


class Refused(RelayError):
    """A request on a live connection is refused; the sender gets an `error`, nobody is disconnected.

    A plugin raises it to say no: `raise Refused("not_your_turn", "white moves first")`. Codes in `ERROR_CODES` are the
    relay's own; a plugin may use any other lower-case word.
    """

    def __init__(
        self, code: str, message: str = "", *, retry_after: float | None = None, setting: str | None = None
    ) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.request: int | str | None = None  # the id of the refused request, where a protocol could still read it
        self.room = ""  # which room it was about, and which plugin said no, for the relay's own notes
        self.plugin = ""
        self.message = message or ERROR_CODES.get(code, code)
        self.retry_after = retry_after
        self.setting = setting


@dataclass(slots=True, frozen=True)
class ConfigProblem:
    """One thing wrong with the configuration: where it stands and what would be right."""

    where: str  # "config.toml:12", "environment RELAY__SERVER__LISTEN", "--set"
    key: str  # "limits.message_bytes"
    what: str  # "expected an integer, got a string"
    hint: str = ""  # "did you mean `message_bytes`?"

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: {self.what}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(RelayError):
    """The configuration cannot be used. Carries *all* problems found, not only the first."""

    EXIT_STATUS: Final = 78  # EX_CONFIG of sysexits.h; systemd's RestartPreventExitStatus= knows it

    def __init__(self, problems: list[ConfigProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class PluginError(RelayError):
    """A plugin cannot be loaded: its name, and what is wrong with it."""

    def __init__(self, plugin: str, what: str, hint: str = "") -> None:
        super().__init__(f"plugin {plugin}: {what}" + (f" ({hint})" if hint else ""))
        self.plugin = plugin
        self.what = what
        self.hint = hint


class CloseCode(enum.IntEnum):
    """Close codes. 1xxx by RFC 6455 section 7.4.1; 42xx: come back later; 44xx: do not retry as you are."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_PAYLOAD = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    TOO_SLOW = 4208
    TOO_MANY = 4229
    OVERLOADED = 4250
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    NO_SUCH_ROOM = 4404
    REPLACED = 4409


# What each code means and whether a client should come back: docs/close-codes.md is checked against this table.
CLOSE_CODES: Final[dict[CloseCode, tuple[str, bool]]] = {
    CloseCode.NORMAL: ("The client closed, or a plugin ended the session: nothing is wrong.", False),
    CloseCode.GOING_AWAY: ("The server drains (restart, deploy): reconnect after the delay that `bye` names.", True),
    CloseCode.PROTOCOL_ERROR: ("A frame broke RFC 6455.", False),
    CloseCode.UNSUPPORTED_DATA: ("A kind of message this protocol does not take (binary on relay.v1.json).", False),
    CloseCode.INVALID_PAYLOAD: ("A text message that is not UTF-8.", False),
    CloseCode.POLICY: ("Too many control frames, or another broken rule; the reason names the config key.", False),
    CloseCode.TOO_BIG: ("A message, or its fragments, beyond the limit that the reason names.", False),
    CloseCode.INTERNAL: ("A bug on our side, logged with the connection's id.", True),
    CloseCode.TOO_SLOW: ("The client did not read: its queue of one channel was full, or it stopped answering.", True),
    CloseCode.TOO_MANY: ("A rate or a count was exceeded; the reason names the config key.", True),
    CloseCode.OVERLOADED: ("The server is full, or short of memory.", True),
    CloseCode.UNAUTHORIZED: ("The token is missing, invalid, expired or revoked: get a new one first.", False),
    CloseCode.FORBIDDEN: ("The token does not grant this.", False),
    CloseCode.NO_SUCH_ROOM: ("No plugin serves a room of that name.", False),
    CloseCode.REPLACED: ("A plugin let a newer connection take the place of this one.", False),
}

CLOSE_FOR_STATUS: Final[dict[int, CloseCode]] = {
    401: CloseCode.UNAUTHORIZED,
    403: CloseCode.FORBIDDEN,
    404: CloseCode.NO_SUCH_ROOM,
    429: CloseCode.TOO_MANY,
    500: CloseCode.INTERNAL,
    503: CloseCode.OVERLOADED,
}

# Where a refusal ends the connection (a plain client's only room), and nothing is forbidden.
CLOSE_FOR_REFUSAL: Final[dict[str, CloseCode]] = {
    "no_such_room": CloseCode.NO_SUCH_ROOM,
    "room_full": CloseCode.TOO_MANY,
    "room_closed": CloseCode.FORBIDDEN,
    "rate_limited": CloseCode.TOO_MANY,
    "too_many_open_rooms": CloseCode.TOO_MANY,
    "timeout": CloseCode.INTERNAL,
    "plugin_off": CloseCode.INTERNAL,
    "internal": CloseCode.INTERNAL,
}

# Codes of `error` answers that are the relay's own; docs/protocol.md is checked against this table.
ERROR_CODES: Final[dict[str, str]] = {
    "bad_request": "the message could not be understood",
    "unknown_type": "no such message type",
    "unauthorized": "the token is missing, invalid or expired",
    "forbidden": "your token does not grant this",
    "no_such_room": "no plugin serves a room of that name",
    "bad_room": "not a valid room name",
    "not_joined": "join the room first",
    "already_joined": "you are in that room already",
    "too_many_rooms": "you are in as many rooms as one connection may join",
    "too_many_open_rooms": "as many rooms are open as may be",
    "room_full": "the room has as many members as it may have",
    "room_closed": "the room was closed by an operator",
    "frozen": "the room is frozen: nobody may publish in it for now",
    "too_many_requests": "too many requests are waiting",
    "rate_limited": "too much at once; `limit` names the setting",
    "bad_part": "a part of a message makes no sense where it came",
    "too_large": "the message is too large",
    "no_such_channel": "no channel of that name",
    "no_such_method": "the plugin of this room has no such method",
    "no_such_subject": "nobody of that name is in the room",
    "not_recoverable": "that position in the room's history is gone",
    "in_progress": "the same message is being handled just now",
    "unavailable": "the relay cannot keep this message just now",
    "timeout": "the plugin did not answer in time",
    "plugin_off": "the plugin of this room was switched off after repeated failures",
    "internal": "a bug on our side; it was logged",
}


@dataclass(slots=True, frozen=True)
class CloseReason:
    """Why a connection ends. `reason` goes into the close frame (at most 123 bytes, RFC 6455 section 5.5).

    `setting` is the config key that caused it; `reconnect_after` and `reconnect_jitter` are seconds, None: do not come
    back.
    """

    code: CloseCode
    reason: str
    setting: str | None = None
    reconnect_after: float | None = None
    reconnect_jitter: float = 0.0

    def text(self) -> str:
        """The reason as sent: with the config key, cut at a character so that it fits a close frame."""
        full = f"{self.reason} [{self.setting}]" if self.setting else self.reason
        return full.encode()[:123].decode(errors="ignore")
