"""JSON merge patches (RFC 7396): what has changed between two objects, and applying it.

Values are compared as they are written, byte by byte: numbers are not read, so none is rounded, and `1` is not `true`.
Not here: who has which version (delta). The one rule: applying what `diff` gives to `old` is `new`, always; where a
patch cannot say it, `diff` gives None.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

Fields: TypeAlias = dict[str, msgspec.Raw]

_fields = msgspec.json.Decoder(Fields)
_encode = msgspec.json.Encoder().encode


def fields_of(raw: bytes) -> Fields | None:
    """The members of a JSON object, unread; None: it is another value. Raises nothing for a broken document: None."""
    if raw[:1] != b"{" and raw.lstrip()[:1] != b"{":
        return None
    try:
        return _fields.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def diff(old: Fields, new: Fields) -> bytes | None:
    """The patch from one to the other. None: a patch cannot say it, because `null` in one means that a member goes."""
    patch: dict[str, msgspec.Raw] = {}
    for name, value in new.items():
        before = old.get(name)
        after = bytes(value)
        if before is not None:
            then = bytes(before)
            if then == after:
                continue
            inner_old, inner_new = fields_of(then), fields_of(after)
            if inner_old is not None and inner_new is not None:
                inner = diff(inner_old, inner_new)
                if inner is None:
                    return None
                patch[name] = msgspec.Raw(inner)
                continue
        if after[:1] not in b"[" and b"null" in after:  # a text may say "null": then a full value is sent in vain
            return None
        patch[name] = value
    for name in old:
        if name not in new:
            patch[name] = msgspec.Raw(b"null")
    return _encode(patch)


def applied(target: Any, patch: Any) -> Any:
    """A value with a patch applied; `target` stays as it was (RFC 7396 section 2)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = applied(result.get(name), value)
    return result
