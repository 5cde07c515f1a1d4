"""Every way a token is refused, as one table: `docs/tokens.md` is checked against it.

Not here: the checks. The one rule: what is said about a token never quotes it.
"""

from __future__ import annotations

from typing import Final

from relay.errors import Rejected

TOKEN_CODES: Final[dict[str, tuple[str, str | None]]] = {
    "token_missing": ("a token is needed", None),
    "token_malformed": ("this is not a signed JWT", None),
    "token_too_large": ("the token has more than 8192 bytes", None),
    "token_wrong_type": ("the token is of another type; JWT or at+jwt is expected", None),
    "token_unsupported": ("the token demands an extension (crit) that is not supported", None),
    "token_wrong_algorithm": ("no key is for the token's algorithm", "auth.keys"),
    "token_unknown_key": ("the key that the token names is not known", "auth.keys"),
    "token_bad_signature": ("the signature is wrong", "auth.keys"),
    "token_bad_claim": ("a claim of the token is not of the kind it must be", None),
    "token_no_expiry": ("the token has no exp claim", None),
    "token_expired": ("the token has expired", "auth.leeway"),
    "token_revoked": ("the token was revoked", None),
    "token_not_yet_valid": ("the token is not valid yet", "auth.leeway"),
    "token_too_long_lived": ("the token expires too far in the future", "auth.max_lifetime"),
    "token_wrong_issuer": ("the token is from another issuer", "auth.issuer"),
    "token_wrong_audience": ("the token is for another audience", "auth.audience"),
    "token_no_subject": ("the token has no subject", "auth.claims.subject"),
    "token_bad_subject": (
        "the subject is not a text of at most 255 bytes without control characters",
        "auth.claims.subject",
    ),
    "token_wrong_certificate": ("the token is bound to a client certificate, and came without it", None),
    "token_not_bound": ("a token must be bound to the client's certificate here", "auth.mtls.bind_token"),
    "certificate_bad_subject": (
        "the client certificate does not name exactly one subject of the kind that is asked for",
        "auth.mtls.subject",
    ),
    "ticket_unknown": ("the ticket is not known, or was used", None),
    "ticket_expired": ("the ticket was not used in time", "auth.tickets.lifetime"),
    "ticket_elsewhere": ("the ticket was given to another network", "auth.tickets.bind_address"),
    "token_wrong_tenant": ("the token names no tenant that its issuer signs for", "auth.claims.tenant"),
    "token_bad_grants": ("the grants cannot be understood", "auth.claims.grants"),
}
"""code: (reason, the config key behind it). A reason may be replaced by a closer one."""


class UnknownKey(Rejected):
    """The token's key is not known *yet*: whoever can fetch keys may do so and verify again.

    `kid` is what the token names, None when it names none and no key of its algorithm is there. `issuer` is the name
    of the issuer whose keys were looked through.
    """

    def __init__(self, kid: str | None, setting: str, issuer: str = "") -> None:
        reason, _ = TOKEN_CODES["token_unknown_key"]
        super().__init__(401, "token_unknown_key", reason, setting=setting, headers=challenge(reason))
        self.kid = kid
        self.issuer = issuer


def refuse(code: str, reason: str | None = None, setting: str | None = None) -> Rejected:
    """The refusal for `code`, to be raised: HTTP 401 with a Bearer challenge (RFC 6750 section 3)."""
    usual, usual_setting = TOKEN_CODES[code]
    said = reason or usual
    headers = challenge(None if code == "token_missing" else said)
    return Rejected(401, code, said, setting=setting or usual_setting, headers=headers)


def challenge(error: str | None) -> tuple[tuple[str, str], ...]:
    """WWW-Authenticate; without an error code where no token was given (RFC 6750 section 3.1)."""
    if error is None:
        return (("WWW-Authenticate", 'Bearer realm="relay"'),)
    # RFC 6750 leaves printable ASCII without quotes and backslashes for the description.
    text = "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in error)
    return (("WWW-Authenticate", f'Bearer realm="relay", error="invalid_token", error_description="{text}"'),)
