"""The settings of certificates and tokens: whom clients trust, and whom the relay trusts.

Not here: all other settings (schema). The one rule: as in schema, a description says what a setting does.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from relay.config.doors import Deferred, Tickets
from relay.config.positions import join_key
from relay.config.table import Bytes, Count, Seconds, Table, about, default, items


class Certificate(Table, frozen=True):
    """A certificate beside the main one, chosen by the name the client asks for (SNI)."""

    certificate: Annotated[str, about("PEM file: the certificate and its chain.")]
    key: Annotated[str, about("PEM file: the private key.")]
    names: Annotated[list[str], about("Host names it is for; [] takes those in the certificate.")] = []


class TLS(Table, frozen=True):
    """Certificates. Files are read at start and again on SIGHUP; a broken pair is refused and the old one stays."""

    certificate: Annotated[str, about("PEM file: the certificate and its chain.")] = "certs/server.pem"
    key: Annotated[str, about("PEM file: the private key.")] = "certs/server-key.pem"
    minimum_version: Annotated[Literal["1.2", "1.3"], about("Lowest TLS version spoken.")] = "1.2"
    client_certificates: Annotated[
        Literal["off", "optional", "required"],
        about("Whether clients are asked for a certificate (mTLS), and must have one. What it is good for: auth.mtls."),
    ] = "off"
    client_ca: Annotated[list[str], about("PEM files of the authorities whose client certificates are accepted.")] = []
    client_crl: Annotated[
        list[str],
        about("PEM files of revoked client certificates (CRL), one for each authority; [] asks for none."),
    ] = []
    sni: Annotated[list[Certificate], about("More certificates, one table [[tls.sni]] each.")] = []


ALGORITHMS = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
]  # fmt: skip


class Key(Table, frozen=True):
    """A key that tokens are signed with. Exactly one of secret, secret_file, public_key, public_key_file."""

    algorithm: Annotated[ALGORITHMS, about("The only algorithm this key may be used with.")]
    kid: Annotated[str, about("Key id; a token that names a kid is checked with that key only.")] = ""
    secret: Annotated[str, about("HMAC secret as text; better in secret_file or the environment.")] = ""
    secret_file: Annotated[str, about("File with the HMAC secret; one newline at its end is ignored.")] = ""
    public_key: Annotated[str, about("Public key, PEM.")] = ""
    public_key_file: Annotated[str, about("File with the public key, PEM.")] = ""

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # may end up in a log or a traceback; the secret may not
        return [(name, "..." if name == "secret" and value else value) for name, value in super().__rich_repr__()]


def default_keys() -> list[Key]:
    return [Key(algorithm="HS256", kid="dev", secret_file="certs/token-secret")]  # noqa: S106 - a path


class JWKS(Table, frozen=True):
    """A set of keys published by the issuer (RFC 7517)."""

    file: Annotated[str, about("File with a JWK set; read again on SIGHUP.")] = ""
    url: Annotated[str, about("https URL of a JWK set, fetched in the background.")] = ""
    ca_file: Annotated[str, about("PEM file of the authorities trusted for the URL; empty: those of the system.")] = ""
    refresh: Annotated[Seconds, about("Seconds between fetches.")] = 300.0
    cooldown: Annotated[Seconds, about("Least seconds between two fetches, also when tokens name unknown keys.")] = 30.0
    timeout: Annotated[Seconds, about("Seconds one fetch may take.")] = 5.0
    max_bytes: Annotated[Bytes, about("Largest key set accepted, bytes.")] = 262144


class Claims(Table, frozen=True):
    """Names of the claims, for tokens that others issue."""

    subject: Annotated[str, about("Claim that says who.")] = "sub"
    grants: Annotated[
        str,
        about("Claim that says what: an object with join, publish, presence, history, call, channels, join_at_start."),
    ] = "relay"
    tenant: Annotated[
        str, about("Claim that names the tenant; looked at only where several tenants share the issuer.")
    ] = "tenant"


class Grants(Table, frozen=True):
    """What a token without a grants claim may do.

    Patterns match whole segments between colons, or a trailing *; {sub} is the subject.
    """

    join: Annotated[list[str], about("Rooms it may join.")] = []
    publish: Annotated[list[str], about("Rooms it may publish in.")] = []
    presence: Annotated[list[str], about("Rooms whose members it may see.")] = []
    history: Annotated[list[str], about("Rooms whose history it may read.")] = []
    call: Annotated[list[str], about("Rooms whose plugin methods it may call.")] = []
    channels: Annotated[list[str], about("Channels it may name when publishing.")] = []
    join_at_start: Annotated[list[str], about("Rooms it is put into when it connects.")] = []


class Mtls(Table, frozen=True):
    """What a client certificate is good for, where tls.client_certificates asks for one."""

    subject: Annotated[
        Literal["none", "san_dns", "san_uri", "san_email", "cn"],
        about(
            "Where it names the subject, so that it stands for a token where none is given: the only DNS name, URI or "
            "e-mail address of its subject alternative names, or the common name. none: a token is needed all the same."
        ),
    ] = "san_dns"
    subject_prefix: Annotated[str, about("Put in front of that, so that no token's subject is the same.")] = ""
    bind_token: Annotated[
        bool,
        about("Take only tokens that are bound to the client's certificate (`cnf` with `x5t#S256`, RFC 8705)."),
    ] = False
    default_grants: Annotated[Grants, about("Grants of a certificate.")] = default(Grants)
    subjects: Annotated[
        dict[str, Grants],
        about("Tables [auth.mtls.subjects.NAME]: the grants of one subject (without the prefix), in place of those."),
    ] = {}


class Issuer(Table, frozen=True):
    """One more issuer of tokens, with keys and rules of its own: a token is checked by those of the issuer it names.

    Nothing is inherited from [auth]. With at least one such table, [auth] itself has no key unless it names one.
    """

    issuer: Annotated[str, about("The `iss` claim of its tokens.")]
    audience: Annotated[
        str, about("Required `aud` claim; empty: a token with an audience is refused, as RFC 7519 asks.")
    ] = ""
    leeway: Annotated[float, about("Seconds of clock difference forgiven in exp and nbf.", ge=0, le=300)] = 10.0
    max_lifetime: Annotated[Seconds, about("Longest exp - now accepted, seconds; 0: any.")] = 0.0
    room_prefix: Annotated[
        str,
        about(
            "Its tokens reach no room whose name begins otherwise, whatever their grants say; ends in ':', as in "
            "'acme:'. Empty: any room."
        ),
    ] = ""
    subject_prefix: Annotated[
        str,
        about("Put in front of every subject of its tokens, as in 'acme:', so that they are nobody else's."),
    ] = ""
    shares_subjects: Annotated[
        bool,
        about("Its subjects may be those of other issuers of its tenant: `ann` of both is one and the same."),
    ] = False
    keys: Annotated[list[Key], about("Keys that its tokens may be signed with, one table [[…keys]] each.")] = items()
    jwks: Annotated[JWKS, about("Keys published by the issuer.")] = default(JWKS)
    claims: Annotated[Claims, about("Names of the claims.")] = default(Claims)
    default_grants: Annotated[Grants, about("Grants of a token that carries none.")] = default(Grants)


class Auth(Table, frozen=True):
    """Who may connect: the token is a JWT, checked before the WebSocket handshake is answered."""

    issuer: Annotated[str, about("Required `iss` claim; empty: not checked.")] = ""
    audience: Annotated[
        str, about("Required `aud` claim; empty: a token with an audience is refused, as RFC 7519 asks.")
    ] = ""
    leeway: Annotated[float, about("Seconds of clock difference forgiven in exp and nbf.", ge=0, le=300)] = 10.0
    max_lifetime: Annotated[Seconds, about("Longest exp - now, and exp - iat, accepted, seconds; 0: any.")] = 0.0
    expiring_notice: Annotated[
        Seconds,
        about(
            "Seconds before its token ends that a relay.v1 client is told (`expiring`); a quarter of the time left "
            "where that is less; 0: it is not told."
        ),
    ] = 60.0
    grace: Annotated[
        Seconds, about("Seconds after exp, and leeway, that a live session goes on as before, to be renewed.")
    ] = 0.0
    on_expiry: Annotated[
        Literal["close", "read_only"],
        about(
            "What becomes of a session whose token has expired, once grace is over: close it (4401), or let it hear "
            "its rooms, but not publish, call or join, until it is renewed."
        ),
    ] = "close"
    read_only_for: Annotated[
        Seconds, about("With on_expiry 'read_only': seconds after which the session is closed (4401); 0: never.")
    ] = 300.0
    revocation_file: Annotated[
        str,
        about(
            "File of revoked tokens, one JSON object a line; looked at once a second, and revocations made while the "
            "relay runs are added to it. Empty: there is none, and those are forgotten at a restart."
        ),
    ] = ""
    max_revocations: Annotated[
        int, about("Revocations held at once, about 0.5 KB each; further ones are refused.", ge=1)
    ] = 100000
    token_in_query: Annotated[
        bool, about("Also take the token from ?token=…; it will be in the access logs of proxies.")
    ] = False
    cookie: Annotated[
        str,
        about(
            "Also take the token from the cookie of this name, from pages whose Origin is allowed by name (not by "
            "'*'); empty: no cookie is looked at."
        ),
    ] = ""
    allowed_origins: Annotated[
        list[str],
        about(
            "Origins whose pages may connect, as 'https://app.example'; '*.' in front of the host means its "
            "subdomains; 'self' the relay's own address; '*' any. A client that sends no Origin is not a browser and "
            "is let through."
        ),
    ] = items("self")
    cache_tokens: Annotated[Count, about("Verified tokens remembered (by SHA-256) until they expire.")] = 10000
    keys: Annotated[list[Key], about("Keys that tokens may be signed with, one table [[auth.keys]] each.")] = (
        msgspec.field(default_factory=default_keys)
    )
    jwks: Annotated[JWKS, about("Keys published by the issuer.")] = default(JWKS)
    claims: Annotated[Claims, about("Names of the claims.")] = default(Claims)
    default_grants: Annotated[Grants, about("Grants of a token that carries none.")] = default(Grants)
    mtls: Annotated[Mtls, about("Client certificates.")] = default(Mtls)
    tickets: Annotated[Tickets, about("One-time tickets.")] = default(Tickets)
    deferred: Annotated[Deferred, about("Tokens in the first message.")] = default(Deferred)
    issuers: Annotated[
        dict[str, Issuer],
        about("Tables [auth.issuers.NAME]: more issuers, chosen by a token's `iss`. All others are this table's."),
    ] = {}


Trusted: TypeAlias = Auth | Issuer
"""What tokens of one issuer are checked by; `auth` itself is the one without a name."""


def issuers_of(auth: Auth) -> dict[str, Trusted]:
    """All issuers by name: "" is `auth` itself, where it has keys."""
    own: dict[str, Trusted] = {"": auth} if auth.keys or auth.jwks.file or auth.jwks.url else {}
    return own | auth.issuers


def table_of(issuer: str) -> str:
    """The config table of an issuer by name."""
    return join_key(("auth", "issuers", issuer)) if issuer else "auth"
