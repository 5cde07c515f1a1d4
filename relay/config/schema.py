"""Every setting of the relay: its name, type, bounds, default and meaning. The one source of the config docs.

Not here: reading files (loader) or writing them (render). The one rule: a description says what the setting does and
its unit; `config.toml`, `docs/configuration.md` and `relay config schema` are made from it, and tests compare them.
Plugin tables (`[plugins.NAME]`) hold the keys of `PluginTable` and the plugin's own, which the plugin's `Settings`
describe.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from relay.config.doors import Deferred, Proxy, Tickets
from relay.config.history import History
from relay.config.limits import Limits
from relay.config.plugin_table import PluginTable, Supervision, default_plugins
from relay.config.quotas import Quota, default_quotas
from relay.config.table import Bytes, Count, Seconds, Table, about, default, items
from relay.config.tenants import Tenant, own_limits, subject_prefix, taken_subjects, tenants_of
from relay.config.trust import (
    ALGORITHMS,
    JWKS,
    TLS,
    Auth,
    Certificate,
    Claims,
    Grants,
    Issuer,
    Key,
    Mtls,
    Trusted,
    default_keys,
    issuers_of,
    table_of,
)

__all__ = [
    "ALGORITHMS",
    "JWKS",
    "TLS",
    "Auth",
    "Certificate",
    "Channel",
    "Claims",
    "Config",
    "Deferred",
    "Grants",
    "History",
    "Internal",
    "Issuer",
    "Key",
    "Limits",
    "Logging",
    "Mtls",
    "Outbox",
    "PluginTable",
    "Proxy",
    "Quota",
    "Server",
    "Supervision",
    "Table",
    "Tenant",
    "TenantLimits",
    "Tickets",
    "Timeouts",
    "Trusted",
    "WebSocket",
    "default_channels",
    "default_keys",
    "default_plugins",
    "default_quotas",
    "issuers_of",
    "subject_prefix",
    "table_of",
    "taken_subjects",
    "tenants_of",
]


class Server(Table, frozen=True):
    """The public listener and the life of the process."""

    listen: Annotated[
        list[str],
        about(
            "Addresses of the public listener, HOST:PORT; ':8443' is all, IPv4 and IPv6; port 0: the system chooses. "
            "Or 'unix:/run/relay/public.sock', for a proxy on this machine."
        ),
    ] = items(":8443")
    unix_mode: Annotated[str, about("Who may connect to Unix sockets of it: the mode of their files, octal.")] = "0660"
    backlog: Annotated[int, about("Connections the kernel keeps waiting for accept.", ge=1)] = 1024
    insecure_plaintext: Annotated[
        bool,
        about("Serve ws:// and http:// instead of wss:// and https://. Only behind a proxy on the same host."),
    ] = False
    playground: Annotated[
        bool,
        about("Serve a small chat page at / to try the relay in a browser. `relay dev` switches it on."),
    ] = False
    poller: Annotated[
        Literal["auto", "epoll", "portable"],
        about("How ready connections are found: one epoll for all (Linux), or a task each; 'auto' takes the best."),
    ] = "auto"
    drain_timeout: Annotated[Seconds, about("Seconds after SIGTERM until connections that are still open are cut.")] = (
        30.0
    )
    drain_spread: Annotated[
        Seconds,
        about("Seconds over which `bye` tells clients to come back, so that they do not all come at once."),
    ] = 10.0


class Internal(Table, frozen=True):
    """The internal listener: /metrics, /healthz, /readyz and the API, /api/v1/. Plain HTTP; keep it on loopback or a
    private network.
    """

    listen: Annotated[
        list[str],
        about("Addresses of the internal listener, HOST:PORT or 'unix:/run/relay/internal.sock'; [] switches it off."),
    ] = items("127.0.0.1:9090")
    unix_mode: Annotated[str, about("Who may connect to Unix sockets of it: the mode of their files, octal.")] = "0660"
    api_keys: Annotated[
        list[str],
        about(
            "Keys that open the API (`Authorization: Bearer KEY`), 16 bytes or more each; better in api_keys_file. "
            "Without any key the API is off."
        ),
    ] = []
    api_keys_file: Annotated[str, about("File with keys of the API, one a line; read again on SIGHUP.")] = ""
    api_body_bytes: Annotated[int, about("Largest body of an API request, bytes; beyond it 413.", ge=1024)] = 1048576
    recent_decisions: Annotated[
        Count,
        about(
            "Recent decisions kept in memory for `relay explain`: who was refused, throttled or closed, and why; "
            "0: none."
        ),
    ] = 10000

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # may end up in a log or a traceback; the keys may not
        return [(name, ["..."] if name == "api_keys" and value else value) for name, value in super().__rich_repr__()]


TenantLimits = own_limits(Limits)


class Timeouts(Table, frozen=True):
    """Deadlines, in seconds."""

    proxy: Annotated[Seconds, about("For the PROXY header of a trusted proxy (proxy.protocol).")] = 5.0
    tls: Annotated[Seconds, about("For the TLS handshake.")] = 5.0
    head: Annotated[Seconds, about("For the whole request head.")] = 5.0
    auth: Annotated[Seconds, about("For authentication, fetching keys included.")] = 5.0
    http_idle: Annotated[Seconds, about("Between two HTTP requests on one connection.")] = 15.0
    http_request: Annotated[Seconds, about("For one HTTP request, body and answer included.")] = 30.0
    close: Annotated[
        Seconds, about("For what is queued and the close handshake to get through when a connection ends.")
    ] = 5.0
    part: Annotated[
        Seconds, about("Between two parts of one message from a client; then what came of it is dropped.")
    ] = 30.0
    parted_message: Annotated[Seconds, about("For a whole message in parts from a client.")] = 600.0
    hook: Annotated[Seconds, about("For one asynchronous plugin hook.")] = 10.0
    ack: Annotated[
        Seconds, about("For the receivers of a message to one subject to confirm it, at most; 0: any time.")
    ] = 30.0


class WebSocket(Table, frozen=True):
    """The WebSocket engine."""

    fast_path: Annotated[
        bool,
        about("Handle whole simple data frames directly; off: every frame goes through wsproto. For tests."),
    ] = True
    accept_then_close: Annotated[
        bool,
        about(
            "Answer a refused handshake with 101 and a close frame that carries code and reason, because a browser "
            "hides HTTP statuses from its page."
        ),
    ] = False
    heartbeat: Annotated[float, about("Seconds between pings to a silent client; 0: none.", ge=0)] = 25.0
    heartbeat_timeout: Annotated[
        float,
        about("Seconds after a ping in which anything must have come, else the client is dead.", gt=0),
    ] = 20.0
    resume_window: Annotated[
        Seconds,
        about(
            "Seconds that a session whose socket was lost waits for its client, if that asked for it (`?resume=`); "
            "0: none does."
        ),
    ] = 30.0
    resume_sessions: Annotated[
        Count, about("Sessions that may wait so at once; one more ends with its socket. 0: any number.")
    ] = 10000
    deflate: Annotated[
        bool,
        about(
            "Compress messages for clients that offer permessage-deflate (RFC 7692). Not where one message holds a "
            "secret beside what others may choose: its length tells about the secret (CRIME, BREACH)."
        ),
    ] = False
    deflate_min_bytes: Annotated[Bytes, about("Messages shorter than this are not compressed.")] = 256
    deflate_level: Annotated[int, about("zlib's level: 1 is fastest, 9 smallest.", ge=1, le=9)] = 1
    deflate_window_bits: Annotated[
        int,
        about(
            "Largest window, as a power of two: how far back a repetition is found, and what a context costs.",
            ge=9,
            le=15,
        ),
    ] = 12
    deflate_context: Annotated[
        bool,
        about(
            "Keep a context for each connection, so that small similar messages pack better; off: a message is "
            "compressed once for all who hear it."
        ),
    ] = False
    deflate_contexts: Annotated[
        Count, about("Connections that may keep a context; further ones share compressed frames.")
    ] = 1000


class Outbox(Table, frozen=True):
    """What waits for one client."""

    unsent_bytes: Annotated[
        int,
        about(
            "Bytes the kernel may hold unsent below us (TCP_NOTSENT_LOWAT): no urgent message overtakes these.",
            ge=4096,
        ),
    ] = 16384
    urgent_share: Annotated[
        float,
        about("Largest share of the bytes sent that urgent messages take while others wait.", gt=0, lt=1),
    ] = 0.8
    part_bytes: Annotated[
        int,
        about(
            "A message larger than this goes to relay.v1 clients in parts of this size, so that others pass between.",
            ge=1024,
            le=65536,
        ),
    ] = 16384
    pace_bulk: Annotated[
        bool,
        about("Keep no more bulk in flight than the path holds without a queue (Linux: TCP_INFO)."),
    ] = True
    congestion: Annotated[
        str,
        about(
            "TCP congestion control of client connections (Linux: 'bbr', 'reno', 'cubic'); empty: the system's, and "
            "where that is BBR, Reno for paced bulk until a segment is lost."
        ),
    ] = ""
    urgent_p99_ms: Annotated[
        float,
        about(
            "Milliseconds that urgent messages should wait at most for their turn here; 0: no promise. Bulk leaves in "
            "records small enough, and relay_urgent_late_total counts those that waited longer.",
            ge=0,
        ),
    ] = 0.0
    pause_timeout: Annotated[
        Seconds,
        about(
            "Seconds that publishers wait for a reader whose channel has overflow 'pause'; then it is closed (4208)."
        ),
    ] = 10.0


class Channel(Table, frozen=True):
    """A lane to every client: what it carries is sent by priority, and bounded in bytes."""

    priority: Annotated[
        Literal["strict", "urgent", "fair"],
        about("strict: first, always; urgent: before fair, within outbox.urgent_share; fair: by weight."),
    ] = "fair"
    weight: Annotated[int, about("Share among the fair channels.", ge=1, le=1000)] = 1
    capacity: Annotated[int, about("Bytes that may wait in it for one client.", ge=1024)] = 1048576
    overflow: Annotated[
        Literal["close", "drop_oldest", "drop_newest", "latest", "pause"],
        about(
            "At capacity: close the connection (4208); drop the oldest or the newest message and say `gap`; keep the "
            "latest message of each key and drop the oldest; or pause: read its publishers no further until half is "
            "sent, and drop the newest at twice the capacity."
        ),
    ] = "close"


def default_channels() -> dict[str, Channel]:
    return {
        "control": Channel(priority="strict", capacity=262144, overflow="close"),
        "urgent": Channel(priority="urgent", capacity=262144, overflow="close"),
        "default": Channel(weight=8, capacity=1048576, overflow="close"),
        "state": Channel(weight=4, capacity=262144, overflow="latest"),
        "bulk": Channel(weight=1, capacity=8389120, overflow="pause"),
    }


class Logging(Table, frozen=True):
    """The log, on standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], about("Least severity written.")] = "info"
    format: Annotated[Literal["auto", "json", "text"], about("auto: coloured text on a terminal, JSON elsewhere.")] = (
        "auto"
    )


class Config(Table, frozen=True):
    """The whole of config.toml."""

    server: Server = default(Server)
    internal: Internal = default(Internal)
    proxy: Proxy = default(Proxy)
    tls: TLS = default(TLS)
    auth: Auth = default(Auth)
    limits: Limits = default(Limits)
    quotas: Annotated[
        dict[str, Quota],
        about(
            "Tables [quotas.NAME]. The two names below always exist; a table for one of them changes it, another name "
            "adds a quota. docs/limits.md has examples."
        ),
    ] = msgspec.field(default_factory=default_quotas)
    timeouts: Timeouts = default(Timeouts)
    websocket: WebSocket = default(WebSocket)
    outbox: Outbox = default(Outbox)
    channels: Annotated[
        dict[str, Channel],
        about(
            "Tables [channels.NAME]. The five names below always exist; a table for one of them changes it, another "
            "name adds a channel."
        ),
    ] = msgspec.field(default_factory=default_channels)
    history: History = default(History)
    supervision: Supervision = default(Supervision)
    plugins: Annotated[
        dict[str, dict[str, Any]],
        about(
            "Tables [plugins.NAME]. A file without any gets the four below; a file with at least one gets just those."
        ),
    ] = msgspec.field(default_factory=default_plugins)
    tenants: Annotated[
        dict[str, Tenant], about("Tables [tenants.NAME]. Without any, there is one room space, for all connections.")
    ] = {}
    aliases: Annotated[
        dict[str, str],
        about(
            'Other names of rooms: `"general" = "chat:main"`. Whoever asks for the alias gets the room; grants are '
            "asked for the room's own name."
        ),
    ] = msgspec.field(default_factory=dict)
    logging: Logging = default(Logging)

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # plugins by name: which of their settings are secret?
        return [(name, list(value) if name == "plugins" else value) for name, value in super().__rich_repr__()]
