"""From a token to an identity: everything that is checked about a JWT before anybody is let in.

Not here: where a token is taken from (`net.handshake`), keys (`keys`, `jwks`), what was revoked (`revocation`). The one
rule: nothing in a token is believed before its signature is right, and nothing in it chooses how it is checked.

Sources: RFC 7515 (JWS), RFC 7519 (JWT), RFC 8725 (best practices), RFC 9068 section 2.1 (at+jwt).
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn

from jwt import PyJWS, PyJWTError
from jwt.algorithms import OKPAlgorithm

from relay.auth.grants import CompiledGrants, compile_grants, grants_of_settings
from relay.auth.keys import SUPPORTED, KeySet, VerificationKey
from relay.auth.public import PublicClaims
from relay.auth.refusals import UnknownKey, refuse
from relay.config import schema
from relay.errors import ConfigError, ConfigProblem, Rejected

MAX_TOKEN_BYTES: Final = 8192
MAX_TEXT_BYTES: Final = 255
MAX_TIME: Final = 253402300800.0  # the year 10000: what lies beyond is a mistake, and may not even be a float
TYPES: Final = frozenset({"jwt", "at+jwt"})

_COMPACT: Final = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
# Controls, line and paragraph separators, what turns text round, lone surrogates: trouble in every log and every page.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_jws: Final = PyJWS(options={"verify_signature": True, "enforce_minimum_key_length": True})
if "Ed25519" not in _jws.get_algorithms():  # the name that RFC 9864 gave it
    _jws.register_algorithm("Ed25519", OKPAlgorithm())


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a verified token speaks for, and what it allows.

    `expires` is its exp in Unix seconds, without leeway; `issued` its iat, -inf without one; `digest` the SHA-256 of
    the token, for logs; `bound_to` the x5t#S256 of the client certificate it goes with, "" for any. `issuer` is its
    iss, `trusted` the name of the issuer's config table ("": `auth` itself). Who somebody is, is tenant and subject
    together. `public` are the claims that other members of a room may see.
    """

    subject: str
    expires: float
    jti: str | None
    issuer: str | None
    grants: CompiledGrants
    digest: bytes
    tenant: str = ""
    trusted: str = ""
    issued: float = -math.inf
    bound_to: str = ""
    public: dict[str, Any] | None = None


class _Verified(NamedTuple):
    """What the cache keeps: the identity, and the times that have to be looked at again."""

    identity: Identity
    not_before: float  # the later of nbf and iat, -inf without them


class Verifier:
    """Checks tokens of one issuer: against its keys and its settings, `auth` itself or one of `auth.issuers`.

    The caller brings the wall clock as `now` (Unix seconds).
    """

    def __init__(
        self,
        keys: KeySet | Callable[[], KeySet],
        auth: schema.Trusted,
        name: str = "",
        *,
        cache_tokens: int | None = None,
        taken: Collection[str] = (),
        tenants: Collection[str] = ("",),
        public: PublicClaims | None = None,
    ) -> None:
        """`keys` may be a function; it gives the same object until keys change. `name` is the issuer's, `taken` are
        beginnings of subjects that are other issuers'. `tenants` are those its tokens may be of; with more than one, a
        token names its own, or is of "" if that is among them. `cache_tokens` None: what `auth` says.
        `public`: which claims others may see.

        Raises ConfigError for default grants that cannot be understood.
        """
        self._keys: Final = keys if callable(keys) else lambda: keys
        self._auth: Final = auth
        self._name: Final = name
        self._table: Final = schema.table_of(name)
        own = auth.cache_tokens if isinstance(auth, schema.Auth) else 0
        self._most: Final = own if cache_tokens is None else cache_tokens
        self._bound: Final = auth.room_prefix if isinstance(auth, schema.Issuer) else ""
        self._prefix: Final = auth.subject_prefix if isinstance(auth, schema.Issuer) else ""
        self._taken: Final = tuple(taken)
        self._tenants: Final = tuple(tenants)
        self._public: Final = public
        self._default_grants: Final = grants_of_settings(auth.default_grants)
        self._key_setting: Final = "auth.jwks" if auth.jwks.url else "auth.keys"
        self._cache: Final[OrderedDict[bytes, _Verified]] = OrderedDict()
        self._cache_keys = self._keys()
        try:
            compile_grants(self._default_grants, self._prefix + "subject", bound=self._bound)
        except Rejected as problem:
            key = f"{self._table}.default_grants"
            raise ConfigError([ConfigProblem("configuration", key, problem.reason)]) from None

    def verify(self, token: str | bytes, now: float) -> Identity:
        """The identity of a token.

        Raises Rejected 401 with a code of `TOKEN_CODES`; `UnknownKey` among them where fetching keys may help.
        """
        if not self._name:
            return self._identify(token, now)
        try:
            return self._identify(token, now)
        except Rejected as rejected:
            # Before the signature is right, nobody is told more of an issuer than that there are some.
            if rejected.setting == self._key_setting:
                rejected.setting = "auth.issuers"
            elif rejected.setting is not None:
                rejected.setting = self._table + rejected.setting.removeprefix("auth")
            raise

    def _identify(self, token: str | bytes, now: float) -> Identity:
        raw = compact(token)
        digest = hashlib.sha256(raw).digest()
        keys = self._keys()
        if keys is not self._cache_keys:
            self._cache.clear()
            self._cache_keys = keys
        found = self._cache.get(digest)
        if found is None:
            found = self._verify(raw, digest, keys, now)
            self._remember(found)
            return found.identity
        try:
            self._check_times(found.identity.expires, found.not_before, now)
        except Rejected:
            if found.identity.expires <= now:
                del self._cache[digest]
            raise
        self._cache.move_to_end(digest)
        return found.identity

    @property
    def keys(self) -> tuple[VerificationKey, ...]:
        """Those that a token may be signed with just now."""
        return self._keys().keys

    def cached(self) -> int:
        """Tokens remembered at the moment."""
        return len(self._cache)

    def _remember(self, verified: _Verified) -> None:
        if self._most:
            self._cache[verified.identity.digest] = verified
            if len(self._cache) > self._most:
                self._cache.popitem(last=False)

    def _verify(self, raw: bytes, digest: bytes, keys: KeySet, now: float) -> _Verified:
        claims = _object(self._signed_payload(raw, keys))
        if "exp" not in claims:
            raise refuse("token_no_expiry")
        expires = _time(claims, "exp", -math.inf)
        issued = _time(claims, "iat", -math.inf)
        not_before = max(_time(claims, "nbf", -math.inf), issued)
        self._check_times(expires, not_before, now)
        auth = self._auth
        # By its iat too: what was too long-lived when it was made does not become good by waiting.
        begin = now if issued == -math.inf else min(issued, now)
        if auth.max_lifetime and expires - begin > auth.max_lifetime + auth.leeway:
            raise refuse("token_too_long_lived")
        issuer = claims.get("iss")
        if auth.issuer and issuer != auth.issuer:
            raise refuse("token_wrong_issuer")
        _check_audience(claims, auth.audience)
        subject = self._subject(claims)
        if auth.claims.grants in claims:
            setting, wanted = "auth.claims.grants", claims[auth.claims.grants]
        else:
            setting, wanted = "auth.default_grants", self._default_grants
        identity = Identity(
            subject=subject,
            expires=expires,
            jti=_text(claims, "jti"),
            issuer=_text(claims, "iss"),
            grants=compile_grants(wanted, subject, setting=setting, bound=self._bound),
            digest=digest,
            trusted=self._name,
            issued=issued,
            bound_to=_binding(claims),
            tenant=self._tenant(claims),
            public=None if self._public is None else self._public.of(claims),
        )
        return _Verified(identity, not_before)

    def _signed_payload(self, raw: bytes, keys: KeySet) -> bytes:
        """The payload, once a key of ours has signed it."""
        header = _object(_segment(raw[: raw.index(b".")]))
        algorithm, kid = _check_header(header)
        candidates = keys.lookup(kid, algorithm)
        if not candidates:
            self._no_key(keys, kid, algorithm)
        for key in candidates:
            payload = _try_key(raw, key, algorithm)
            if payload is not None:
                return payload
        raise refuse("token_bad_signature", setting=self._key_setting)

    def _no_key(self, keys: KeySet, kid: str | None, algorithm: str) -> NoReturn:
        """A token without a key: of those that fetching keys may help, say so."""
        if algorithm not in SUPPORTED or (kid is not None and keys.knows(kid)):
            raise refuse("token_wrong_algorithm", setting=self._key_setting)
        raise UnknownKey(kid, self._key_setting, self._name)

    def _check_times(self, expires: float, not_before: float, now: float) -> None:
        if now >= expires + self._auth.leeway:
            raise refuse("token_expired")
        if now < not_before - self._auth.leeway:
            raise refuse("token_not_yet_valid")

    def _tenant(self, claims: dict[str, Any]) -> str:
        if len(self._tenants) == 1:
            return self._tenants[0]
        name = claims.get(self._auth.claims.tenant, "")
        if not isinstance(name, str) or name not in self._tenants:
            raise refuse("token_wrong_tenant")
        return name

    def _subject(self, claims: dict[str, Any]) -> str:
        subject = claims.get(self._auth.claims.subject)
        if subject is None or subject == "":
            raise refuse("token_no_subject")
        if not isinstance(subject, str) or not is_clean(self._prefix + subject):
            raise refuse("token_bad_subject")
        subject = self._prefix + subject
        if subject.startswith(self._taken):
            raise refuse("token_bad_subject", "the subject begins as those of another issuer do")
        return subject


def claimed_issuer(raw: bytes) -> object:
    """The iss of a token in compact form, *not verified*: good for choosing what to verify it with, nothing else."""
    return _object(_segment(raw[raw.index(b".") + 1 : raw.rindex(b".")])).get("iss")


def compact(token: str | bytes) -> bytes:
    """The token as bytes in compact form (RFC 7515 section 7.1), without padding."""
    if not token:
        raise refuse("token_missing")
    if len(token) > MAX_TOKEN_BYTES:
        raise refuse("token_too_large")
    try:
        raw = token.encode("ascii") if isinstance(token, str) else bytes(token)
    except UnicodeEncodeError:
        raise refuse("token_malformed") from None
    if not _COMPACT.fullmatch(raw):
        raise refuse("token_malformed")
    return raw


def _segment(segment: bytes) -> bytes:
    try:
        return base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    except ValueError:
        raise refuse("token_malformed") from None


def _object(data: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8, in which no name comes twice (RFC 7515 section 4, RFC 7519 section 4) and no NaN."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise refuse("token_malformed") from None
    if not isinstance(value, dict):
        raise refuse("token_malformed")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_header(header: dict[str, Any]) -> tuple[str, str | None]:
    """(algorithm, kid). Keys or addresses of keys in a header (jwk, jku, x5c, x5u) are never looked at."""
    if "crit" in header or "b64" in header:
        raise refuse("token_unsupported")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in TYPES:
        raise refuse("token_wrong_type")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        raise refuse("token_malformed")
    kid = header.get("kid")
    if "kid" in header and not isinstance(kid, str):
        raise refuse("token_malformed")
    return algorithm, kid


def _try_key(raw: bytes, key: VerificationKey, algorithm: str) -> bytes | None:
    """The payload when `key` signed it. The algorithm is one that the key accepts, so the token had no choice."""
    try:
        payload: bytes = _jws.decode_complete(raw, key.key, algorithms=[algorithm])["payload"]
    except PyJWTError:
        return None
    return payload


def _time(claims: dict[str, Any], name: str, absent: float) -> float:
    """A NumericDate (RFC 7519 section 2), in seconds."""
    if name not in claims:
        return absent
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not -MAX_TIME < value < MAX_TIME:
        raise refuse("token_bad_claim", f"{name} is not a time in seconds")
    return float(value)


def _check_audience(claims: dict[str, Any], audience: str) -> None:
    """RFC 7519 section 4.1.3: a token that names audiences is for nobody else, also where none is configured."""
    if "aud" not in claims and not audience:
        return
    named = claims.get("aud")
    if not audience or audience not in (named if isinstance(named, list) else [named]):
        raise refuse("token_wrong_audience")


def _text(claims: dict[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if value is None or (isinstance(value, str) and is_clean(value)):
        return value
    raise refuse(
        "token_bad_claim", f"{name} is not a text of at most {MAX_TEXT_BYTES} bytes without control characters"
    )


def _binding(claims: dict[str, Any]) -> str:
    """`cnf` with `x5t#S256` (RFC 8705 section 3.1); other ways to confirm are not for us (RFC 7800 section 3.1)."""
    confirmation = claims.get("cnf", {})
    thumbprint = confirmation.get("x5t#S256", "") if isinstance(confirmation, dict) else None
    if not isinstance(thumbprint, str) or ("x5t#S256" in claims.get("cnf", {}) and not thumbprint):
        raise refuse("token_bad_claim", "cnf does not name a certificate as RFC 8705 has it")
    return thumbprint


def is_clean(text: str) -> bool:
    return len(text) <= MAX_TEXT_BYTES and not _CONTROL.search(text) and len(text.encode()) <= MAX_TEXT_BYTES
