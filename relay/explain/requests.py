"""Codes of refused requests, of messages that were dropped, and of reading that was put off.

Not here: the meaning of the relay's own codes, which errors.ERROR_CODES has. The one rule: words of single plugins
stand here too where they come with the relay.
"""

from __future__ import annotations

from typing import Final

from relay.errors import ERROR_CODES
from relay.explain.entry import Explanation

REQUEST: Final = ("request",)
BOTH: Final = ("handshake", "request")
CHANNELS: Final = ("channels.NAME.capacity", "channels.NAME.overflow")

# code: (where, cause, client, operator, settings, status where it is an HTTP answer too)
ABOUT: Final[dict[str, tuple[tuple[str, ...], str, str, str, tuple[str, ...], int | None]]] = {
    "bad_request": (
        ("request", "handshake", "api"),
        "A field is missing or has the wrong type; the sentence beside the code names it.",
        "Correct the message: docs/protocol.md has every field.",
        "A flood of them from one client: it was written for another version, or is broken.",
        (),
        400,
    ),
    "unknown_type": (
        REQUEST,
        "`t` is none of the types of relay.v1, or a plain client sends to `/ws`.",
        "Use a type of docs/protocol.md.",
        "Nothing.",
        (),
        None,
    ),
    "unauthorized": (
        BOTH,
        "A token in the query while that is off; a renewal with a bad token; or the token has expired and the session"
        " may only listen (auth.on_expiry).",
        "Get a new token; send it with `auth`, or at the next handshake in a header or subprotocol.",
        "`relay token check` explains one token.",
        ("auth.on_expiry", "auth.token_in_query"),
        401,
    ),
    "forbidden": (
        BOTH,
        "The room, the channel or the action is not in the token's grants; or a plugin says no to everybody but some.",
        "Ask for a token that grants it.",
        "`relay token check TOKEN --room ROOM` says what it may do there. Where a plugin refused, it is named.",
        ("auth.claims.grants", "auth.default_grants.join"),
        403,
    ),
    "no_such_room": (
        ("handshake", "request", "api"),
        "No pattern of a plugin's `rooms` matches the name; or, in the API, nobody is in the room just now.",
        "Check the name.",
        "Add the pattern to a plugin: `relay check` lists them.",
        ("plugins.NAME.rooms",),
        404,
    ),
    "bad_room": (
        ("handshake", "request", "api"),
        "White space, an invisible character, `*`, `{`, `}`, an empty part between colons, or too long.",
        "Correct the name: the sentence says what is wrong with it.",
        "Raise limits.room_name_bytes only for names that are meant to be long.",
        ("limits.room_name_bytes",),
        400,
    ),
    "not_joined": (
        REQUEST,
        "The client was never in the room, has left it, was removed, or the join was refused before.",
        "Join first, and look at the join's answer.",
        "`relay explain conn SESSION` shows whether it was kicked.",
        (),
        None,
    ),
    "already_joined": (
        REQUEST,
        "A second join; or the room is in the token's `join_at_start`.",
        "Keep note of the rooms that are joined.",
        "Nothing.",
        (),
        None,
    ),
    "too_many_rooms": (
        REQUEST,
        "Rooms are joined and never left.",
        "Leave rooms that are not needed.",
        "Raise the limit, or use one room with channels or keys.",
        (
            "limits.rooms_per_connection",
            "limits.patterns_per_connection",
            "limits.pattern_rooms",
            "plugins.NAME.max_rooms_per_subject",
        ),
        None,
    ),
    "too_many_open_rooms": (
        REQUEST,
        "The relay, or the client's tenant, has as many rooms open as it may have; this would be one more.",
        "Use a room that is open, or try again later.",
        "Raise the limit; `relay_rooms` tells how many there are.",
        ("limits.rooms", "plugins.NAME.max_rooms"),
        None,
    ),
    "room_full": (
        REQUEST,
        "The plugin's table bounds the members of a room.",
        "Try later, or another room.",
        "Raise max_members if the room should hold more.",
        ("plugins.NAME.max_members",),
        None,
    ),
    "room_closed": (
        ("request", "api"),
        "An operator has closed the room; with retry_after, it can be opened again after that many seconds.",
        "Treat it as gone, or come back after retry_after.",
        "`relay explain room NAME` shows when; a restart forgets that rooms are closed.",
        (),
        403,
    ),
    "frozen": (
        ("request", "api"),
        "An operator has frozen the room: it can be heard, but nobody may publish in it.",
        "Show it as read only.",
        "Unfreeze it through the API; there, a publish with `force` is heard all the same.",
        (),
        409,
    ),
    "too_many_requests": (
        ("request", "throttled"),
        "An asynchronous hook of a plugin is slower than this client asks; or too many messages in parts at once.",
        "Wait for answers before the next request.",
        "Make the hook faster. Until it is, the client is read no further, which delays nobody else.",
        ("limits.requests_waiting", "limits.parted_streams", "limits.parted_bytes"),
        None,
    ),
    "rate_limited": (
        ("request", "throttled", "dropped"),
        "More messages, bytes, joins or calls at once than a limit of one connection or a quota allows.",
        "Send less, in larger messages, or wait for retry_after.",
        "The setting beside the code is the rate or the quota that was met. Who is only a little ahead is read more"
        " slowly; who owes more than limits.slow_down seconds is closed with 4229. A quota (a table of"
        " [quotas]) says by its at_limit what it does, and by its per who shares it.",
        ("limits.messages_per_second", "limits.bytes_per_second", "limits.slow_down"),
        429,
    ),
    "bad_part": (
        REQUEST,
        "A part out of order, of an unknown stream, or beyond the size that was announced.",
        "Send the parts of a message in order, the first with its envelope.",
        "Nothing; limits.parted_message_bytes = 0 switches messages in parts off.",
        ("limits.parted_message_bytes",),
        None,
    ),
    "too_large": (
        ("request", "handshake", "api"),
        "The message fits nobody's lane of that channel, or is larger than a message in parts may be; or a client that"
        " may send its token in the first message (auth.deferred) sent more before it.",
        "Send less, or in another channel.",
        "Raise the capacity of the channel, or the limit, that stands beside the code.",
        ("channels.NAME.capacity", "limits.parted_message_bytes", "internal.api_body_bytes", "auth.deferred.bytes"),
        413,
    ),
    "no_such_channel": (
        ("request", "handshake", "api"),
        "A misspelt name, or a channel of another relay; `control` is the relay's own.",
        "Use a name that `hello` lists.",
        "Add a table [channels.NAME].",
        ("channels",),
        400,
    ),
    "no_such_method": (
        REQUEST,
        "A call that the plugin of this room does not answer.",
        "Check the method's name, and the room.",
        "`relay plugins list` shows which plugin serves which rooms.",
        ("plugins.NAME.rooms",),
        None,
    ),
    "no_such_subject": (
        REQUEST,
        "The receiver has left, or is on another node.",
        "Treat it as not delivered.",
        "Nothing.",
        (),
        404,
    ),
    "not_recoverable": (
        REQUEST,
        "The client was away longer than the history reaches, or the room was empty meanwhile and began anew.",
        "Load the state anew, and go on from the offset of the join.",
        "Raise history and history_seconds of the plugin's table.",
        ("plugins.NAME.history", "plugins.NAME.history_seconds"),
        None,
    ),
    "in_progress": (
        REQUEST,
        "A message was sent again before the first one was answered.",
        "Wait for retry_after, and send it again.",
        "Nothing, unless a plugin's hook is slow.",
        (),
        None,
    ),
    "unavailable": (
        REQUEST,
        "The disk is full, fails, or is slower than what is published in durable rooms.",
        "Wait for retry_after, and send it again.",
        "Look at the disk; the log names the file and the error.",
        ("history.queue_bytes",),
        503,
    ),
    "timeout": (
        ("request", "handshake"),
        "In a request: the plugin's hook did not end in time. Before the session: the request head, or the token in the"
        " first message (auth.deferred), did not come in time.",
        "Try again; send the head, or the token, at once.",
        "Make the hook faster, or give it longer in the plugin's hook_timeout.",
        (
            "timeouts.hook",
            "plugins.NAME.hook_timeout",
            "timeouts.head",
            "timeouts.auth",
            "timeouts.http_request",
            "timeouts.part",
        ),
        408,
    ),
    "plugin_off": (
        REQUEST,
        "The plugin failed more often than supervision.failures within the window, and was switched off.",
        "Nothing.",
        "The log has the tracebacks. Repair the plugin and restart.",
        ("supervision.failures", "supervision.failure_window"),
        503,
    ),
    "internal": (
        ("request", "handshake", "api"),
        "A bug: usually in a plugin, which is named then; else in the relay.",
        "Nothing.",
        "The log has the traceback at that time. A bug of the relay itself: please report it.",
        (),
        500,
    ),
}

_OTHERS: Final = (
    Explanation(
        "slow_reader", ("throttled",), "A publisher is read no further until a reader of its room has caught up.",
        "A channel whose overflow is 'pause', and a reader whose network is slower than what is published.",
        "Nothing: what was sent is not lost.",
        "Whoever is slow is closed after outbox.pause_timeout. Choose another overflow where nobody should wait.",
        ("outbox.pause_timeout", *CHANNELS),
    ),
    Explanation(
        "plugin_busy", ("throttled",), "Requests wait, because a plugin is slow and called often.",
        "Its hooks take milliseconds, and there are more of them than the loop has time for; between two of them "
        "others are served.",
        "Nothing: what was sent is not lost, and comes in order.",
        "Move what takes long into an async hook, a thread (`to_thread`) or a process of its own (`isolate`); or bound "
        "how often it is asked with a quota.",
        ("supervision.slow_hook",),
    ),
    Explanation(
        "overflow", ("dropped",), "A client's channel was full, and its policy is to drop.",
        "The client, or its network, is slower than what is published.",
        "`gap` tells which messages are missing; load the state anew if that matters.",
        "Raise the capacity, publish less, or choose another overflow.",
        CHANNELS,
    ),
    Explanation(
        "ttl", ("dropped",), "A message waited longer than its sender said it would be of use.",
        "The client's network is slow, and the message had a `ttl`.",
        "`gap` tells which messages are missing.",
        "Nothing: that is what a ttl is for.",
    ),
    Explanation(
        "room_exists", ("api",), "There is a room of the name that another one was to get.",
        "Somebody is in it, or something is remembered of it.", "Nothing.",
        "Choose another name; or close that room and delete its history first.", (), 409,
    ),
    Explanation(
        "other_rules", ("api",), "A room cannot be renamed to a name whose rooms belong to another plugin.",
        "Rules, hooks and state of a room are its plugin's.", "Nothing.", "Choose a name that the same table serves.",
        ("plugins.NAME.rooms",), 409,
    ),
    Explanation(
        "loop", REQUEST, "A message came back to the bridge that had sent it.",
        "Two bridges joined in a circle (plugin `bridge`).", "Nothing.", "Open the circle.", ("plugins.NAME.rooms",),
    ),
    Explanation(
        "no_such_file", REQUEST, "The plugin `files` keeps no file of that name.",
        "It was never sent, or newer ones have taken its place.", "Ask for the list first.",
        "Raise `keep` of the plugin.",
    ),
    Explanation(
        "banned", REQUEST, "A moderator has banned the subject from the room (plugin `moderation`).",
        "See the reason.", "Nothing, or come back after `retry_after`.", "A moderator may call `moderation.unban`.",
    ),
    Explanation(
        "muted", REQUEST, "A moderator has muted the subject in the room (plugin `moderation`).",
        "See the reason.", "Wait for `retry_after`.", "A moderator may call `moderation.unmute`.",
    ),
    Explanation(
        "slow_mode", REQUEST, "The room takes one message of a subject in so many seconds (plugin `moderation`).",
        "Slow mode is on.", "Wait for `retry_after`.", "A moderator may call `moderation.slow`; see `slow_seconds`.",
    ),
    Explanation(
        "language", REQUEST, "The message has a word that nobody shall say (plugin `moderation`).",
        "It is in `words` or in `words_file`.", "Say it otherwise.", "Change the words, or set `action` to mask.",
    ),
    Explanation(
        "version_conflict", REQUEST, "The value has another version than the change was made for (plugin `state`).",
        "Somebody else changed it meanwhile.", "Take the new value, which comes in `state`, and make the change again.",
        "Nothing.",
    ),
)  # fmt: skip


def _explained(code: str, meaning: str) -> Explanation:
    where, cause, client, operator, settings, status = ABOUT[code]
    return Explanation(code, where, meaning[0].upper() + meaning[1:] + ".", cause, client, operator, settings, status)


ENTRIES: Final = (
    *(_explained(code, meaning) for code, meaning in ERROR_CODES.items() if code in ABOUT),
    *_OTHERS,
)
