"""Close codes: those of errors.CLOSE_CODES, and the two that never travel.

Not here: their meaning and whether to come back, which errors.CLOSE_CODES has. The one rule: where a setting caused the
end, the reason in the close frame names it; a page can only name the candidates.
"""

from __future__ import annotations

from typing import Final

from relay.errors import CLOSE_CODES, CloseCode
from relay.explain.entry import Explanation

CLOSE: Final = ("close",)

# code: (cause, client, operator, settings)
ABOUT: Final[dict[int, tuple[str, str, str, tuple[str, ...]]]] = {
    1000: (
        "The client called close, or a plugin or the API ended the session with this code.",
        "Connect again when there is a reason to.",
        "Nothing.",
        (),
    ),
    1001: (
        "A restart or a deploy, or a tenant that a reload has taken out; as the client's own code: a page was closed "
        "or left.",
        "Reconnect after the delay of `bye`, else after a random one.",
        "Spread the return with server.drain_spread.",
        ("server.drain_timeout", "server.drain_spread"),
    ),
    1002: (
        "A client written by hand: frames without a mask, reserved bits, a wrong continuation; or a broken proxy.",
        "Use a WebSocket library.",
        "From one kind of client only: its library. From all behind one proxy: the proxy.",
        (),
    ),
    1003: (
        "Binary messages on relay.v1.json that are no parts, or text on relay.v1.msgpack.",
        "Send what the subprotocol takes.",
        "Nothing.",
        (),
    ),
    1007: ("Binary data sent as text.", "Send binary data in binary messages.", "Nothing.", ()),
    1008: (
        "More pings or pongs than limits.control_frames; some libraries ping very often.",
        "Ping every 20 seconds or less often.",
        "Raise the rate only if the client is meant to do that.",
        ("limits.control_frames", "limits.control_frames_burst"),
    ),
    1009: (
        "A message larger than limits.message_bytes, or in more fragments than limits.fragments.",
        "Send large messages in parts (relay.v1), or less.",
        "Raise the limit that the reason names; memory for each connection grows with it.",
        ("limits.message_bytes", "limits.fragments"),
    ),
    1011: (
        "A bug in the relay, or a plugin that failed while a plain client joined.",
        "Reconnect with a delay that doubles.",
        "The log has the traceback, with the session's name.",
        ("supervision.failures", "timeouts.hook"),
    ),
    4208: (
        "The client's network is slower than what is published, its page was suspended, or it died without a word.",
        "Reconnect; read faster; ask for less.",
        "Which channel was full stands in the reason. Raise its capacity, choose an overflow that drops, or publish"
        " less. 'no sign of life' means that the heartbeat got no answer.",
        ("channels.NAME.capacity", "channels.NAME.overflow", "outbox.pause_timeout", "websocket.heartbeat_timeout"),
    ),
    4229: (
        "Far more messages or bytes than the connection may send; or a room was full.",
        "Send less; wait for the delay of `bye`.",
        "The reason names the rate. Who is only a little ahead is not closed but read more slowly.",
        ("limits.messages_per_second", "limits.bytes_per_second", "limits.slow_down"),
    ),
    4250: (
        "More clients than limits.max_connections, told with a close frame (websocket.accept_then_close).",
        "Come back later, elsewhere if there is elsewhere.",
        "Raise the limit, or run more processes.",
        ("limits.max_connections", "websocket.accept_then_close"),
    ),
    4401: (
        "The token expired or was revoked on the live connection, or was refused at the handshake"
        " (websocket.accept_then_close).",
        "Get a new token first. On relay.v1 renew with `auth` when `expiring` comes.",
        "The reason says which. Expired: longer tokens, or auth.grace; auth.on_expiry = 'read_only' lets them listen"
        " on. Revoked: `relay revoke --list` has the revocation, `--undo` takes it back.",
        ("auth.grace", "auth.on_expiry", "auth.read_only_for", "auth.leeway", "auth.revocation_file"),
    ),
    4403: (
        "A plain client may not join or publish in its room; it was removed from it; or the API closed it.",
        "Do not come back with the same token.",
        "`relay token check TOKEN --room ROOM` says what it may do.",
        ("auth.claims.grants",),
    ),
    4404: (
        "No plugin serves the room of a plain client.",
        "Check the room's name.",
        "`relay check` lists the plugins with their patterns.",
        ("plugins.NAME.rooms",),
    ),
    4409: (
        "A plugin that lets a client have one connection closed the older one. The relay never does so by itself.",
        "Nothing: the newer one lives.",
        "Two copies of a client with one identity replace each other in turn: give them two.",
        (),
    ),
}

NEVER_SENT: Final = (
    Explanation(
        "1005", CLOSE, "The client closed, and its close frame had no code (RFC 6455 section 7.4.1). It never travels.",
        "`close()` without arguments in a browser.", "Nothing.", "Nothing.",
    ),
    Explanation(
        "1006", CLOSE, "The connection was lost without a close frame (RFC 6455 section 7.4.1). It never travels.",
        "A network that went away, a proxy that cut an idle connection, a process that was killed, a phone asleep. In a"
        " browser also every refused handshake.",
        "Reconnect with a delay that doubles. In a browser ask /auth/check for the reason of a refused handshake.",
        "Always after the same time: a proxy's idle timeout below websocket.heartbeat.",
        ("websocket.heartbeat", "websocket.heartbeat_timeout"),
    ),
)  # fmt: skip


def _explained(code: CloseCode) -> Explanation:
    meaning, again = CLOSE_CODES[code]
    cause, client, operator, settings = ABOUT[code]
    come_back = "" if again else " A client should not come back as it is."
    return Explanation(str(int(code)), CLOSE, meaning + come_back, cause, client, operator, settings)


ENTRIES: Final = (*(_explained(code) for code in CLOSE_CODES if code in ABOUT), *NEVER_SENT)
