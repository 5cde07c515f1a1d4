"""Whose token is it? The issuer that a token names decides by whose keys and rules it is checked.

Not here: the checks (tokens), keys. The one rule: the name is not believed: it only chooses a verifier among those
configured, and that one asks for a signature by its own issuer's keys and for just this name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from relay.auth.refusals import refuse
from relay.auth.tokens import Identity, Verifier, claimed_issuer, compact
from relay.config import schema


class Issuers:
    """All verifiers of a configuration, by the name of their issuer; "" is `auth` itself, for all that is unnamed."""

    def __init__(self, auth: schema.Auth, verifiers: Mapping[str, Verifier]) -> None:
        self.verifiers: Final = dict(verifiers)
        self._default: Final = verifiers.get("")
        self._by_iss: Final = {auth.issuers[name].issuer: one for name, one in verifiers.items() if name}

    def verify(self, token: str | bytes, now: float) -> Identity:
        """The identity of a token. `now` in Unix seconds. Raises Rejected 401, as `Verifier.verify` does."""
        if not self._by_iss and self._default is not None:
            return self._default.verify(token, now)
        named = claimed_issuer(compact(token))
        verifier = self._by_iss.get(named, self._default) if isinstance(named, str) else self._default
        if verifier is None:
            raise refuse("token_wrong_issuer", setting="auth.issuers")
        return verifier.verify(token, now)
