"""Tokens to be twisted, and a relay's eye that looks at them: what it refuses, it refuses with a 401 of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay.auth.keys import KeySet, VerificationKey
from relay.auth.refusals import TOKEN_CODES
from relay.auth.tokens import Verifier
from relay.config import schema
from relay.errors import Rejected
from tests.unit.auth.kit import ALGORITHMS, NOW, claims, public, sign

KEYS = KeySet(VerificationKey.make(f"key-{name}", name, public(name)) for name in ALGORITHMS)
HEADER = {"typ": "JWT", "alg": "HS256"}
GOOD = sign(claims())


def verifier() -> Verifier:
    return Verifier(KEYS, schema.Auth())


def refused(token: str | bytes) -> str:
    """The code of the refusal. Fails on anything else."""
    with pytest.raises(Rejected) as caught:
        verifier().verify(token, NOW)
    found = caught.value
    assert found.status == 401
    assert found.code in TOKEN_CODES
    text = token if isinstance(token, str) else token.decode("latin-1")
    said = found.reason + "".join(value for _, value in found.headers)
    assert not any(part and len(part) >= 16 and part in said for part in text.split("."))
    return found.code


def header(**fields: Any) -> bytes:
    return json.dumps({**HEADER, **fields}).encode()


def payload(**fields: Any) -> bytes:
    return json.dumps(claims(**fields)).encode()
