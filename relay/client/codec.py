"""The two codecs of relay.v1, as the client writes and reads them.

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


def encoder(codec: Codec) -> Callable[[Any], str | bytes]:
    """From words to a WebSocket message: text for JSON, binary for msgpack."""
    if codec == "msgpack":
        return msgspec.msgpack.Encoder().encode
    encode = msgspec.json.Encoder().encode
    return lambda words: encode(words).decode()


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
    return (msgspec.json if kind == "json" else msgspec.msgpack).decode(raw)


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
