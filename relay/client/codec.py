"""The words of relay.v1 in its two codecs, as the client writes and reads them.

Not here: parts (incoming, upload). The one rule: what is unknown is let pass, what is not relay.v1 ends the session.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from relay.client.errors import Disconnected
from relay.client.events import FromRelay, Gap, Ok, Refusal

Codec = Literal["json", "msgpack"]

log: Final = logging.getLogger("relay.client")

DECODERS: Final[dict[str, Any]] = {
    "json": msgspec.json.Decoder(FromRelay).decode,
    "msgpack": msgspec.msgpack.Decoder(FromRelay).decode,
}
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
UNREADABLE_DATA: Final = "unreadable"
_KNOWN: Final = frozenset(kind.__struct_config__.tag for kind in FromRelay.__args__)


class _Type(msgspec.Struct):
    t: str


class _Head(_Type):
    """What a message of the relay says it is, whatever stands in its data."""

    id: int | str | None = None
    room: str = ""
    offset: int = 0


def given(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what was left out."""
    return {name: value for name, value in fields.items() if value is not None}


def publish_words(
    room: str,
    channel: str | None,
    key: str | None,
    to: str | None,
    echo: bool,
    ttl: float | None,
    request: int | None,
    once: str | None = None,
    confirm: float | None = None,
) -> dict[str, Any]:
    """A publish without its data."""
    options = {"channel": channel, "key": key, "to": to, "echo": echo or None, "ttl": ttl, "once": once}
    options["confirm"] = confirm
    return given({"t": "publish", "id": request, "room": room, **options})


def superseding(say: dict[str, Any]) -> object:
    """Equal for two publishes of which the newer one replaces the older; None: this one replaces none."""
    return (say["room"], say["key"], say.get("to")) if "key" in say else None


def encoder(codec: Codec) -> Callable[[Any], bytes]:
    """From words to the bytes of a WebSocket message, which is text for JSON and binary for msgpack."""
    return msgspec.json.Encoder().encode if codec == "json" else msgspec.msgpack.Encoder().encode


def document(codec: Codec, data: Any) -> tuple[str, bytes]:
    """What is said, as it travels in parts: its kind and its bytes."""
    if isinstance(data, str):
        return "text", data.encode()
    if isinstance(data, bytes | bytearray | memoryview):
        return "binary", bytes(data)
    return codec, _module(codec).encode(data)


def value(kind: str, raw: bytes) -> Any:
    """The other way round. Raises one of UNREADABLE."""
    if kind == "binary":
        return raw
    if kind == "text":
        return raw.decode()
    if kind == "json":
        return msgspec.json.decode(raw)
    if kind == "msgpack":
        return msgspec.msgpack.decode(raw)
    raise msgspec.DecodeError(f"a payload of unknown kind {kind!r}")


def understood(codec: Codec, raw: str | bytes) -> FromRelay | None:
    """One message of the relay; None for a type this client does not know. Raises Disconnected: not relay.v1.

    The relay passes data on unread. Where it is nothing this client can read (a number too large, text that is not
    UTF-8) that is its publisher's fault, and a `Gap`.
    """
    try:
        said: FromRelay = DECODERS[codec](raw)
    except UNREADABLE as error:
        nested = isinstance(error, RecursionError)
        head = None
        try:
            known = _module(codec).decode(raw, type=_Type).t
            if known in _KNOWN:
                head = _module(codec).decode(raw, type=_Head)
        except UNREADABLE as problem:
            if nested and isinstance(problem, RecursionError):  # whose it was cannot be told
                return Gap("", 0, 0, UNREADABLE_DATA)
            raise Disconnected(1002, f"the server does not speak relay.v1: {error}") from None
        if head is not None and known == "message" and head.room:
            return Gap(head.room, head.offset, head.offset, UNREADABLE_DATA)
        if head is not None and known == "ok" and head.id is not None:
            return _readable(codec, raw, head.id)
        if not known or head is not None:
            raise Disconnected(1002, f"the server does not speak relay.v1: {error}") from None
        log.debug("a message of unknown type came", extra={"fields": {"type": known}})
        return None
    return said


def _readable(codec: Codec, raw: str | bytes, request: int | str) -> Ok | Refusal:
    """An answer without those of its messages that cannot be read; where it is something else, a refusal."""
    module = _module(codec)
    try:
        fields = module.decode(raw, type=dict[str, msgspec.Raw])
        kept: list[msgspec.Raw] = []
        lost: list[Gap] = []
        for one in module.decode(fields.get("messages", module.encode([])), type=list[msgspec.Raw]):
            message = understood(codec, bytes(one))
            if isinstance(message, Gap):
                lost.append(message)
            else:
                kept.append(one)
        answer = DECODERS[codec](module.encode({**fields, "messages": kept}))
    except (*UNREADABLE, Disconnected):
        return Refusal(UNREADABLE_DATA, "the answer cannot be read by this client", id=request)
    assert isinstance(answer, Ok)
    return msgspec.structs.replace(answer, unreadable=lost)


def _module(codec: Codec) -> Any:
    return msgspec.json if codec == "json" else msgspec.msgpack
