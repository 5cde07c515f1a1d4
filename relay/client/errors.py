"""How a connection fails, as a client sees it.

    ClientError
    ├── ConnectFailed       nobody there, no TLS, no answer in time
    ├── ConnectionRefused   a server answered, with an HTTP status instead of a WebSocket
    ├── Disconnected        an open connection ended: close code and reason
    └── Withdrawn           an upload was given up before it was whole

A refused request on a live connection is `relay.errors.Refused`. The one rule: the reason is what the other side said,
unshortened; where it said nothing, the text says so.
"""

from __future__ import annotations

from typing import Final

from relay.errors import CLOSE_CODES, CloseCode, RelayError

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
