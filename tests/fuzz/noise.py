"""A seeded mutator: from good inputs, and words of their grammar, to inputs that are nearly good.

Not here: what reads them (targets). The one rule: the same seed gives the same inputs, so a failure is repeated by its
two numbers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

MOST: Final = 1200  # bytes of an input: long ones find nothing that short ones do not, and cost more
_CHANGES: Final = (1, 1, 1, 1, 1, 2, 2, 2, 3, 4, 5, 6)
_EDGES: Final = tuple(bytes([edge]) for edge in (0, 1, 0x7D, 0x7E, 0x7F, 0x80, 0x81, 0xC0, 0xC1, 0xED, 0xFE, 0xFF))


Build: TypeAlias = Callable[[random.Random], bytes]
"""Makes an input with a shape of its own, which changed bytes would seldom have."""

LEAVES: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 255, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 0.1, -0.0, 1e308, 5e-324,
    "", "a", "chat:1", "*", "{sub}", "control", "urgent", "a" * 300, "\u202e\u0000\u2028", "é🎉",
    [], {}, [[[[[[]]]]]], {"a": {"b": {}}},
)  # fmt: skip


def twisted(source: random.Random, value: Any) -> Any:
    """A document with something in it replaced, taken out, put in or doubled."""
    kind = source.random()
    if isinstance(value, dict) and value and kind < 0.8:
        changed = dict(value)
        name = source.choice(list(changed))
        if kind < 0.1:
            del changed[name]
        elif kind < 0.2:
            changed[str(source.choice(LEAVES))] = source.choice(LEAVES)
        elif kind < 0.25:
            changed[source.choice(list(changed))] = changed[name]
        else:
            changed[name] = twisted(source, changed[name])
        return changed
    if isinstance(value, list) and value and kind < 0.8:
        items = list(value)
        at = source.randrange(len(items))
        if kind < 0.1:
            del items[at]
        elif kind < 0.2:
            items *= source.randint(1, 3)
        else:
            items[at] = twisted(source, items[at])
        return items
    if isinstance(value, str) and value and kind < 0.3:
        at = source.randrange(len(value))
        return value[:at] + source.choice(("*", ":", "{sub}", "\0", "é", " ", "::")) + value[at + source.randrange(2) :]
    return source.choice(LEAVES)


class Noise:
    """Inputs without end. `words` are put in whole; `seeds` are what is changed; half of the inputs are `build`'s,
    where there is one.
    """

    def __init__(self, seed: str, seeds: Sequence[bytes], words: Sequence[bytes], build: Build | None = None) -> None:
        self._random = random.Random(seed)
        self._build = build
        self._seeds = seeds
        self._words = words or (b"",)

    def next(self) -> bytes:
        """The next input: what was built, or a seed with one to six changes, two seeds in one, bare noise."""
        source = self._random
        if self._build is not None and source.random() < 0.5:
            return self._build(source)[:MOST]
        kind = source.random()
        if kind < 0.02:
            return source.randbytes(source.randrange(64))
        data = bytearray(source.choice(self._seeds))
        if kind < 0.12:
            other = source.choice(self._seeds)
            data[source.randrange(len(data) + 1) :] = other[source.randrange(len(other) + 1) :]
        for _ in range(source.choice(_CHANGES)):
            self._change(data)
        return bytes(data[:MOST])

    def _change(self, data: bytearray) -> None:
        source = self._random
        at = source.randrange(len(data) + 1)
        match source.randrange(8):
            case 0 if at < len(data):
                data[at] = source.randrange(256)
            case 1 if at < len(data):
                data[at] ^= 1 << source.randrange(8)
            case 2 if at < len(data):
                data[at : at + 1] = source.choice(_EDGES)
            case 3:
                del data[at : at + source.randint(1, 12)]
            case 4:
                data[at:at] = data[at : at + source.randint(1, 40)]
            case 5:
                other = source.choice(self._seeds)
                start = source.randrange(len(other) + 1)
                data[at:at] = other[start : start + source.randint(1, 40)]
            case 6 if at < len(data):
                data[at:] = data[at:] if source.random() < 0.5 else b""
            case _:
                data[at:at] = source.choice(self._words)
