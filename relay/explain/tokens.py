"""Codes of tokens that are refused: at the handshake, by /auth/check, and where a live connection renews its own.

Not here: their meaning, which auth/refusals has. The one rule: `relay token check` says more about one token than any
page can.
"""

from __future__ import annotations

from typing import Final

from relay.auth.refusals import TOKEN_CODES
from relay.explain.entry import Explanation

NEW: Final = "Get a new token and connect again."
ISSUER: Final = "The issuer has to change what it signs."

# code: (cause, client, operator, further settings)
ABOUT: Final[dict[str, tuple[str, str, str, tuple[str, ...]]]] = {
    "token_missing": (
        "No `Authorization: Bearer`, no subprotocol `bearer.TOKEN`; or a proxy removed the header.",
        "Send the token in one of the two ways; in the first message where auth.deferred is on.",
        "Check that proxies pass Authorization and Sec-WebSocket-Protocol on.",
        ("auth.token_in_query", "auth.deferred.enabled"),
    ),
    "token_malformed": (
        "A session cookie or an opaque token was taken for a JWT, or the token was cut on its way.",
        "Send the whole token: three parts with dots between.",
        "`relay token check TOKEN` shows how far it can be read.",
        (),
    ),
    "token_too_large": (
        "A token with very many rooms in its grants.",
        NEW,
        "Grant patterns instead of single rooms.",
        ("limits.head_bytes",),
    ),
    "token_wrong_type": (
        "An ID token, a refresh token or a logout token was sent.",
        "Send the access token.",
        ISSUER,
        (),
    ),
    "token_unsupported": (
        "The issuer marks an extension as critical (`crit`).",
        "Nothing.",
        ISSUER,
        (),
    ),
    "token_wrong_algorithm": (
        "The issuer signs with another algorithm than the keys here are for, or somebody tries a confusion attack.",
        NEW,
        "Compare the `alg` of `relay token check` with the algorithm of each key.",
        ("auth.keys", "auth.jwks.url"),
    ),
    "token_unknown_key": (
        "The issuer has rotated its keys, or the token is from another environment.",
        NEW,
        "Is auth.jwks.url reachable from here? A new key is fetched at most once in auth.jwks.cooldown.",
        ("auth.keys", "auth.jwks.url", "auth.jwks.cooldown"),
    ),
    "token_bad_signature": (
        "Another secret or key signed it (staging against production), or it was changed.",
        NEW,
        "Compare the secret on both sides: a newline too many is the usual difference.",
        ("auth.keys",),
    ),
    "token_bad_claim": (
        "A claim has the wrong type, as `exp` given as text.",
        "Nothing.",
        ISSUER + " `relay token check` says which claim.",
        (),
    ),
    "token_no_expiry": (
        "The issuer sets no `exp`.",
        "Nothing.",
        ISSUER + " Tokens without an end are not accepted.",
        (),
    ),
    "token_expired": (
        "The page was open longer than the token lives; or the clocks of issuer and relay differ.",
        "Get a new token before each connection, and renew on `expiring`.",
        "Check the clocks (NTP); auth.leeway forgives some seconds.",
        ("auth.leeway", "auth.grace"),
    ),
    "token_revoked": (
        "An operator revoked it, or all tokens of its subject, issuer or tenant, or those from before a moment.",
        "Get a new token: the user may have to log in again.",
        "`relay revoke --list` shows the entry; with the setting it stands in the file, else it was made by the API.",
        ("auth.revocation_file",),
    ),
    "token_not_yet_valid": (
        "The issuer's clock is ahead of this one.",
        "Wait a moment.",
        "Check the clocks (NTP); auth.leeway forgives some seconds.",
        ("auth.leeway",),
    ),
    "token_too_long_lived": (
        "The issuer gives tokens a longer life than auth.max_lifetime.",
        "Nothing.",
        "Shorten the life at the issuer, or raise the limit.",
        ("auth.max_lifetime",),
    ),
    "token_wrong_issuer": (
        "`iss` is another one, a slash at its end included.",
        NEW,
        "Compare `iss` in `relay token check` with the setting, letter by letter.",
        ("auth.issuer", "auth.issuers"),
    ),
    "token_wrong_audience": (
        "`aud` is another service's, or the token has one and auth.audience is empty.",
        NEW,
        "Set auth.audience to what the issuer puts into `aud`.",
        ("auth.audience",),
    ),
    "token_no_subject": (
        "The claim that says who is missing.",
        "Nothing.",
        "If the issuer uses another claim, name it in auth.claims.subject.",
        ("auth.claims.subject",),
    ),
    "token_bad_subject": (
        "The subject is longer than 255 bytes, or holds what no log could bear.",
        "Nothing.",
        ISSUER,
        ("auth.claims.subject",),
    ),
    "token_wrong_certificate": (
        "The token was made for a client with a certificate (x5t#S256), and the connection shows none, or another.",
        "Connect with the certificate that the token was made for, or get a new token.",
        "Is tls.client_certificates on? A proxy that ends TLS cannot pass a certificate on.",
        ("tls.client_certificates", "auth.mtls.bind_token"),
    ),
    "token_not_bound": (
        "The issuer makes plain bearer tokens, and auth.mtls.bind_token wants bound ones.",
        "Get a token that is bound to your certificate.",
        "Have the issuer put the certificate's thumbprint into cnf (RFC 8705), or switch bind_token off.",
        ("auth.mtls.bind_token",),
    ),
    "certificate_bad_subject": (
        "It has no name of the kind that auth.mtls.subject asks for, or several.",
        "Nothing.",
        "Compare the certificate's names (`openssl x509 -noout -subject -ext subjectAltName`) with auth.mtls.subject.",
        ("auth.mtls.subject",),
    ),
    "ticket_unknown": (
        "It was used before, its subject has taken newer ones, or another process gave it out; or it never was one.",
        "Ask for a new ticket for each connection.",
        "Several relays behind a load balancer: a ticket is good only at the one that gave it.",
        ("auth.tickets.per_subject",),
    ),
    "ticket_expired": (
        "More time than auth.tickets.lifetime passed between asking and connecting.",
        "Ask for the ticket right before connecting.",
        "On slow networks raise auth.tickets.lifetime.",
        ("auth.tickets.lifetime",),
    ),
    "ticket_elsewhere": (
        "The client changed its network in between, or asks through a proxy and connects without; or somebody took it.",
        "Ask for a new ticket from where you connect.",
        "If clients reach the relay over IPv4 and IPv6 by turns, switch auth.tickets.bind_address off.",
        ("auth.tickets.bind_address", "auth.tickets.ipv4_prefix", "auth.tickets.ipv6_prefix"),
    ),
    "token_wrong_tenant": (
        "Several tenants share the issuer, and the claim that tells them apart names none of them; or a reload has "
        "taken the tenant out.",
        NEW,
        "Let the issuer put the tenant's name into the claim, or give the tenant an issuer of its own.",
        ("auth.claims.tenant",),
    ),
    "token_bad_grants": (
        "The grants claim is no object, has an unknown key or a pattern that is none.",
        "Nothing.",
        "`relay token check` says which part; docs/tokens.md has the rules for patterns.",
        ("auth.claims.grants",),
    ),
}


def _explained(code: str, meaning: str) -> Explanation:
    cause, client, operator, settings = ABOUT[code]
    meaning = meaning[0].upper() + meaning[1:] + "."
    return Explanation(code, ("handshake", "request"), meaning, cause, client, operator, settings, 401)


ENTRIES: Final = tuple(_explained(code, meaning) for code, (meaning, _) in TOKEN_CODES.items() if code in ABOUT)
