"""The words of relay.v1 in its two codecs, as the client writes and reads them.

Not here: parts (incoming, upload). The one rule: what is unknown is let pass, what is not relay.v1 ends the session.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from relay.client.errors import Disconnected
from relay.client.events import FromRelay

Codec = Literal["json", "msgpack"]

log: Final = logging.getLogger("relay.client")

DECODERS: Final[dict[str, Any]] = {
    "json": msgspec.json.Decoder(FromRelay).decode,
    "msgpack": msgspec.msgpack.Decoder(FromRelay).decode,
}
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_KNOWN: Final = frozenset(kind.__struct_config__.tag for kind in FromRelay.__args__)


class _Type(msgspec.Struct):
    t: str


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
) -> dict[str, Any]:
    """A publish without its data."""
    options = {"channel": channel, "key": key, "to": to, "echo": echo or None, "ttl": ttl, "once": once}
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
    return codec, (msgspec.json if codec == "json" else msgspec.msgpack).encode(data)


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
    """One message of the relay; None for a type this client does not know. Raises Disconnected: not relay.v1."""
    try:
        said: FromRelay = DECODERS[codec](raw)
    except UNREADABLE as error:
        try:
            known = (msgspec.json if codec == "json" else msgspec.msgpack).decode(raw, type=_Type).t
        except UNREADABLE:
            known = ""
        if not known or known in _KNOWN:
            raise Disconnected(1002, f"the server does not speak relay.v1: {error}") from None
        log.debug("a message of unknown type came", extra={"fields": {"type": known}})
        return None
    return said
