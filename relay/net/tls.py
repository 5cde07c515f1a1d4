"""TLS contexts: hardened, chosen by the name the client asks for, and replaced as a whole.

Not here: handshakes and their deadlines (transport). The one rule: a context is never changed once it is in use. New
certificates mean new contexts; only when every one of them is good do they take the place of the old ones, and
connections that exist keep theirs.

What Python 3.11 cannot set: the list of groups. OpenSSL's own begins with X25519 and P-256, and the server's order
counts; a scanner that asks for exactly Mozilla's list needs `Groups = X25519:P-256:P-384` in the file that OPENSSL_CONF
names.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from relay.config.schema import TLS
from relay.errors import ConfigError, ConfigProblem
from relay.net.client_certificates import demand, problems_of

# TLS 1.2: authenticated encryption with forward secrecy only. The three suites of TLS 1.3 are all of that kind.
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
GROUPS: Final = "X25519:P-256:P-384"
# A session ticket costs every handshake about 30 microseconds and 250 bytes. Resuming by one saves a signature; with an
# elliptic curve that is less than the tickets cost (docs/performance.md), with RSA it is many times as much.
TICKETS_RSA: Final = 1
TICKETS_EC: Final = 0
_MINIMUM: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_HINT: Final = "`relay certs` makes a pair for development"


def build_context(
    certificate: Path, key: Path, *, minimum_version: Literal["1.2", "1.3"] = "1.2", table: str = "tls"
) -> ssl.SSLContext:
    """A server context for one certificate (PEM, with its chain) and its private key (PEM, not encrypted).

    Raises ConfigError; `table` is the config table that the problems name, `tls` or `tls.sni[0]`.
    """
    return _load(certificate, key, minimum_version, table).context


@dataclass(slots=True, frozen=True)
class _Loaded:
    context: ssl.SSLContext
    names: list[str]  # the certificate's DNS names, lower case
    expires_at: float  # Unix time, seconds: the first notAfter of the chain


@dataclass(slots=True, frozen=True)
class _Generation:
    """What one reading of the files gave; the main context's SNI callback knows its own generation only."""

    context: ssl.SSLContext
    expires_at: float


class Certificates:
    """The certificates of the public listener. Raises ConfigError, with all the problems of all files.

    Relative paths start at `base`. `context` is for new handshakes: ask for it each time.
    """

    __slots__ = ("_base", "_current", "_settings", "notes_names")

    def __init__(self, settings: TLS, base: Path = Path(), *, notes_names: bool = False) -> None:
        """`notes_names`: a connection's socket has the name that its client asked for (SNI) in `asked_for`."""
        self.notes_names = notes_names
        self._settings = settings
        self._base = base
        self._current = self._read(settings)

    @property
    def context(self) -> ssl.SSLContext:
        """The context new handshakes begin with; by SNI they may go on with another."""
        return self._current.context

    def expires_at(self) -> float:
        """When the first certificate in use expires: Unix time in seconds."""
        return self._current.expires_at

    def reload(self, settings: TLS | None = None, *, notes_names: bool | None = None) -> None:
        """Read all files again, by new settings if given, and swap. Raises ConfigError: then all stays as it was."""
        settings = settings or self._settings
        before = self.notes_names
        self.notes_names = before if notes_names is None else notes_names
        try:
            self._current = self._read(settings)
        except ConfigError:
            self.notes_names = before
            raise
        self._settings = settings

    def _read(self, settings: TLS) -> _Generation:
        problems = problems_of(settings, self._base)
        if problems:
            raise ConfigError(problems)
        main = self._attempt(settings.certificate, settings.key, settings, "tls", problems)
        others: list[tuple[list[str], ssl.SSLContext]] = []
        expiries = [main.expires_at] if main else []
        claimed: dict[str, str] = {}
        for index, entry in enumerate(settings.sni):
            table = f"tls.sni[{index}]"
            loaded = self._attempt(entry.certificate, entry.key, settings, table, problems)
            if loaded is None:
                continue
            names = [name.lower() for name in entry.names] or loaded.names
            if not names:
                problems.append(
                    _problem(entry.certificate, f"{table}.names", "the certificate names no host", "set names")
                )
            for name in entry.names:
                if (before := claimed.setdefault(name.lower(), table)) != table:
                    problems.append(_problem("configuration", f"{table}.names", f"{name!r} is in {before} too"))
            expiries.append(loaded.expires_at)
            others.append((names, loaded.context))
        if main is None or problems:
            raise ConfigError(problems)
        if others or self.notes_names:
            main.context.sni_callback = _chooser([*others, (main.names, main.context)])
        return _Generation(main.context, min(expiries))

    def _attempt(
        self, certificate: str, key: str, settings: TLS, table: str, problems: list[ConfigProblem]
    ) -> _Loaded | None:
        try:
            loaded = _load(self._base / certificate, self._base / key, settings.minimum_version, table)
            demand(loaded.context, settings, self._base)
        except ConfigError as error:
            problems += error.problems
        except OSError as error:
            problems.append(_problem("configuration", "tls.client_ca", f"OpenSSL refuses it: {error}"))
        else:
            return loaded
        return None


def _chooser(entries: Iterable[tuple[list[str], ssl.SSLContext]]) -> Callable[..., None]:
    """The SNI callback: an exact name before a wildcard, an earlier entry before a later one, else the main context.

    It cannot raise. (A server name that is not ASCII never gets here: the interpreter ends that handshake with an alert
    and tells sys.unraisablehook.)
    """
    contexts: dict[str, ssl.SSLContext] = {}
    for names, context in entries:
        for name in names:
            contexts.setdefault(name, context)

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _main: ssl.SSLContext) -> None:
        if name is not None:
            connection.asked_for = name  # type: ignore[union-attr]
            name = name.lower().removesuffix(".")
            # A wildcard stands for one whole label (RFC 9525 section 6.3).
            context = contexts.get(name) or contexts.get("*." + name.partition(".")[2])
            if context is not None and context is not connection.context:
                connection.context = context

    return choose


def _load(certificate: Path, key: Path, minimum_version: str, table: str) -> _Loaded:
    """Read and check a pair. OpenSSL's own errors ("PEM lib") tell an operator nothing, so we look first."""
    problems: list[ConfigProblem] = []
    chain = _read_chain(certificate, f"{table}.certificate", problems)
    public = _read_public_half(key, f"{table}.key", problems)
    if chain and public and _public_bytes(chain[0]) != public:
        what = f"the key does not belong to the certificate {certificate}"
        problems.append(_problem(key, f"{table}.key", what))
    if problems:
        raise ConfigError(problems)
    context = _hardened(minimum_version)
    context.num_tickets = TICKETS_RSA if isinstance(chain[0].public_key(), rsa.RSAPublicKey) else TICKETS_EC
    try:
        # The password callback keeps OpenSSL from asking the terminal, should the file have changed just now.
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            [_problem(certificate, f"{table}.certificate", f"OpenSSL refuses the pair: {error}")]
        ) from None
    return _Loaded(context, _dns_names(chain[0]), min(item.not_valid_after_utc.timestamp() for item in chain))


def _hardened(minimum_version: str) -> ssl.SSLContext:
    """Forward secrecy and authenticated encryption only; no renegotiation, no compression; HTTP/1.1, for WebSocket."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _MINIMUM[minimum_version]
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options |= ssl.OP_SINGLE_ECDH_USE | ssl.OP_SINGLE_DH_USE
    context.post_handshake_auth = False
    context.set_alpn_protocols(["http/1.1"])
    if hasattr(context, "set_groups"):  # Python 3.15
        context.set_groups(GROUPS)
    return context


def _read_chain(path: Path, config_key: str, problems: list[ConfigProblem]) -> list[x509.Certificate]:
    data = _read_file(path, config_key, problems)
    if data is None:
        return []
    try:
        chain = x509.load_pem_x509_certificates(data)
    except ValueError:
        problems.append(_problem(path, config_key, "no certificate in PEM form in this file"))
        return []
    now = datetime.now(UTC)
    leaf = chain[0]
    if leaf.not_valid_after_utc <= now:
        problems.append(_problem(path, config_key, f"the certificate expired on {leaf.not_valid_after_utc:%Y-%m-%d}"))
    elif leaf.not_valid_before_utc > now:
        what = f"the certificate is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        problems.append(_problem(path, config_key, what, "is the clock right?"))
    return chain


def _read_public_half(path: Path, config_key: str, problems: list[ConfigProblem]) -> bytes | None:
    data = _read_file(path, config_key, problems)
    if data is None:
        return None
    try:
        public = load_pem_private_key(data, password=None).public_key()
    except TypeError:
        problems.append(_problem(path, config_key, "the private key is encrypted", "`openssl pkey` decrypts it"))
        return None
    except (ValueError, UnsupportedAlgorithm):
        problems.append(_problem(path, config_key, "no private key in PEM form in this file"))
        return None
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _read_file(path: Path, config_key: str, problems: list[ConfigProblem]) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as error:
        problems.append(_problem(path, config_key, f"cannot be read: {error.strerror}", _HINT))
        return None


def _public_bytes(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _dns_names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [name.lower() for name in names.get_values_for_type(x509.DNSName)]


def _problem(where: str | Path, key: str, what: str, hint: str = "") -> ConfigProblem:
    return ConfigProblem(str(where), key, what, hint)
