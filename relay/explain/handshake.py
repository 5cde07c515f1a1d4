"""Codes of TLS, of the HTTP request and of the WebSocket handshake; tokens have a room of their own.

Not here: who raises them. The one rule: an entry says what this code means here, not what its status means.
"""

from __future__ import annotations

from typing import Final

from relay.explain.entry import Explanation

TLS: Final = (
    Explanation(
        "tls_timeout", ("tls",), "The TLS handshake did not end in time.",
        "A very slow network, a health check that opens the port and says nothing, or an attacker who waits.",
        "Retry; from one network only, look for a firewall that delays or drops packets.",
        "Single ones are normal. Many from one address: it is counted in limits.connections_per_address all the while.",
        ("timeouts.tls", "limits.connections_per_address"),
    ),
    Explanation(
        "tls_protocol", ("tls",), "It was no TLS, or nothing that both sides speak; OpenSSL's word stands beside it.",
        "HTTP_REQUEST: `http://` or `ws://` was used for `https://` or `wss://`. UNSUPPORTED_PROTOCOL: a client below"
        " tls.minimum_version. CERTIFICATE_UNKNOWN, UNKNOWN_CA: the client does not trust the certificate.",
        "Use `wss://`; trust the authority; update a client that has no TLS 1.2.",
        "Look at the word beside the code. After a new certificate: is the whole chain in tls.certificate?",
        ("tls.minimum_version", "tls.certificate", "tls.key"),
    ),
    Explanation(
        "tls_certificate", ("tls",), "The client's certificate was refused, or it had none.",
        "PEER_DID_NOT_RETURN_A_CERTIFICATE: it has none, and one is required. CERTIFICATE_VERIFY_FAILED: it has"
        " expired, was revoked, or is by an authority that is not in tls.client_ca.",
        "Use the certificate you were given, with its key.",
        "Check it: `openssl verify -CAfile CLIENT_CA CERTIFICATE`. With tls.client_crl each authority needs a list.",
        ("tls.client_certificates", "tls.client_ca", "tls.client_crl"),
    ),
    Explanation(
        "tls_eof", ("tls",), "The client ended the connection before the TLS handshake was done.",
        "Port scans and TCP health checks; browsers that do not trust the certificate and say so by leaving.",
        "Nothing, if it connects the next time.",
        "Let load balancers ask /readyz instead of only opening the port.",
    ),
)  # fmt: skip

ADDRESS: Final = (
    Explanation(
        "address_denied", ("handshake",), "The client's network may not connect. It is told nothing.",
        "It is in limits.deny_addresses, or limits.allow_addresses lists others only.",
        "Connect from another network.",
        "If it should come in, change the lists and send SIGHUP. Behind a proxy: docs/proxies.md.",
        ("limits.allow_addresses", "limits.deny_addresses"), 403,
    ),
    Explanation(
        "too_many_handshakes", ("handshake",), "The address opens connections faster than it may.",
        "A client that reconnects in a loop without waiting, or many users behind one address.",
        "Wait for Retry-After; reconnect with a random delay that doubles.",
        "Behind NAT or a proxy raise the rate and its burst. Else find the client that loops.",
        ("limits.handshakes_per_address", "limits.handshakes_burst"), 429,
    ),
    Explanation(
        "too_many_slow", ("handshake",), "Connections of the address did not finish TLS or their request head.",
        "An attack that opens connections and lets them wait; rarely a network that loses most packets.",
        "Wait, at most half a minute after the last one. The connection is closed before TLS, without a word.",
        "Many users behind one address: raise the rate and its burst. The address is in the decisions.",
        ("limits.slow_handshakes_per_address", "limits.slow_handshakes_burst", "timeouts.tls", "timeouts.head"), 429,
    ),
    Explanation(
        "crowded_out", ("handshake",), "More connections were on their way in than may be, and this one had to go.",
        "Somebody opens many connections and lets them wait. Those that wait longest are cut, first those of addresses"
        " that hold most places.",
        "Try again.",
        "Look which addresses stand beside this code, and deny them; or raise the limit.",
        ("limits.pending_handshakes",), 503,
    ),
    Explanation(
        "too_many_connections", ("handshake",), "The address has as many connections as it may have.",
        "Many users behind one address, a proxy in front, or connections that are opened and never closed.",
        "Close what is not needed; retry after Retry-After.",
        "Raise the limit where many users share an address.",
        ("limits.connections_per_address", "limits.ipv6_prefix"), 429,
    ),
    Explanation(
        "too_many_failures", ("handshake",), "Too many bad tokens came from the address, so it has to wait.",
        "A client with a broken token that retries without end, or somebody who guesses.",
        "Get a good token before the next try; wait for Retry-After.",
        "`relay explain address IP` tells which refusals came before.",
        ("limits.auth_failures", "limits.auth_failures_window", "limits.auth_backoff", "limits.auth_backoff_max"), 429,
    ),
    Explanation(
        "too_many_of_subject", ("handshake",), "The subject has as many connections as it may have.",
        "Many tabs or devices; connections that are opened and not closed; one subject for a whole fleet.",
        "Close a connection first, or share one.",
        "`relay explain subject NAME` lists them. Give each device a subject of its own, or raise the limit.",
        ("limits.connections_per_subject",), 429,
    ),
    Explanation(
        "too_many_guests", ("handshake",), "As many clients as may are about to send their token.",
        "With auth.deferred many connect without a token and say nothing; or all reconnect at once.",
        "Retry after Retry-After; send the token with the request where that is possible, which needs no such place.",
        "The metric relay_guests shows how many there are; `relay explain address IP` tells whose time ran out.",
        ("auth.deferred.guests", "auth.deferred.per_address"), 503,
    ),
    Explanation(
        "auth_expected", ("handshake",), "The first message of a client without a token was not its token.",
        "The client joined or published before it said `auth`; in plain mode it may not know that a token is wanted.",
        "Send `{\"t\": \"auth\", \"token\": …}` first, in plain mode the token alone; `ping` may come before.",
        "Nothing. The connection was closed with 4401.",
        ("auth.deferred.enabled",), 401,
    ),
    Explanation(
        "too_many_sockets", ("handshake",), "The session has as many sockets as it may have.",
        "More sockets with `?session=` than the limit allows.",
        "Move several channels to one socket.",
        "Raise the limit if the client is meant to do that.",
        ("limits.sockets_per_session",), 429,
    ),
    Explanation(
        "full", ("handshake",), "The server has as many connections as it may have.",
        "More clients than this process is set up for.",
        "Retry after Retry-After, elsewhere if there is elsewhere.",
        "Raise limits.max_connections together with LimitNOFILE and memory, or run more processes.",
        ("limits.max_connections",), 503,
    ),
    Explanation(
        "short_of_memory", ("handshake",), "The server uses more memory than its mark.",
        "Many clients that do not read, a plugin that keeps too much, or a mark that is too low.",
        "Retry after Retry-After, elsewhere if there is elsewhere.",
        "Does most of it wait for clients (relay_outbox_bytes)? Then lower the channels' capacity. Else look at plugins"
        " and history. The mark is limits.memory_bytes, or limits.memory_share of the cgroup's limit.",
        ("limits.memory_bytes", "limits.memory_share"), 503,
    ),
    Explanation(
        "draining", ("handshake",), "The server is going away and takes nobody new.",
        "A restart or a deploy.",
        "Retry: another process or the next one will answer.",
        "Nothing. A load balancer that asks /readyz sends nobody here meanwhile.",
        ("server.drain_timeout",), 503,
    ),
)  # fmt: skip

HTTP: Final = (
    Explanation(
        "not_found", ("handshake", "api"), "Nothing is served at this path.",
        "WebSockets are at `/ws` and `/rooms/NAME`; a prefix that a proxy should have taken away is still there.",
        "Correct the URL.",
        "Check the proxy's rewriting; docs/api.md lists the paths of the API.",
        status=404,
    ),
    Explanation(
        "upgrade_required", ("handshake",), "The address is for WebSockets, and the request was a plain one.",
        "A browser opened the address, or a proxy did not pass `Upgrade` and `Connection` on.",
        "Connect with a WebSocket client.",
        "In nginx: proxy_http_version 1.1, and proxy_set_header for Upgrade and Connection.",
        status=426,
    ),
    Explanation(
        "method_not_allowed", ("handshake", "api"), "Another method is needed here; `Allow` names it.",
        "A POST to a page, or a GET to a route that changes something.",
        "Use the method that `Allow` names.", "Nothing.", status=405,
    ),
    Explanation(
        "http_version", ("handshake",), "The request was not HTTP/1.1.",
        "A proxy that speaks HTTP/1.0 to its backends (nginx does unless told otherwise).",
        "Use HTTP/1.1.", "In nginx: proxy_http_version 1.1.", status=505,
    ),
    Explanation(
        "transfer_encoding", ("handshake",), "A transfer coding other than chunked.",
        "A client or proxy that compresses bodies on their way.",
        "Send Content-Length or chunked.", "Nothing.", status=501,
    ),
    Explanation(
        "head_too_large", ("handshake",), "The request head has more bytes than it may have.",
        "Large cookies of the same site, or a token with very many grants.",
        "Fewer cookies for this host; fewer grants in the token.",
        "Serve the relay under a host name of its own; raise limits.head_bytes if tokens need it.",
        ("limits.head_bytes",), 431,
    ),
    Explanation(
        "too_many_fields", ("handshake",), "The request head has more fields than it may have.",
        "Proxies that add fields at every hop, or an attack.",
        "Nothing, usually.", "Raise limits.head_fields if the proxies are yours.", ("limits.head_fields",), 431,
    ),
    Explanation(
        "websocket_version", ("handshake",), "Sec-WebSocket-Version is not 13.",
        "A client from before 2011, or one written by hand.",
        "Send `Sec-WebSocket-Version: 13` (RFC 6455).", "Nothing.", status=426,
    ),
    Explanation(
        "unknown_subprotocol", ("handshake",),
        "None of the subprotocols offered is known, or `/ws` was asked without one.",
        "`/ws` needs `relay.v1.json` or `relay.v1.msgpack`; plain mode is at `/rooms/NAME`.",
        "Offer one of those, or use plain mode.", "Nothing.", status=400,
    ),
    Explanation(
        "no_such_field", ("handshake",), "`?fields=` names something that messages do not have.",
        "A misspelt name.", "Use the names in docs/protocol.md.", "Nothing.", status=400,
    ),
    Explanation(
        "other_protocol", ("handshake",), "A further socket of a session speaks another subprotocol than the first.",
        "`?session=` with `relay.v1.msgpack` where the session speaks `relay.v1.json`, or the other way round.",
        "Offer the same subprotocol.", "Nothing.", status=400,
    ),
    Explanation(
        "no_such_session", ("handshake", "api"), "There is no session of that name, or it is another subject's.",
        "The session has ended, or lives in another process behind the load balancer.",
        "Open a new session.",
        "Route all sockets of a client to the same process. `relay explain conn SESSION` tells how it ended.",
        status=404,
    ),
    Explanation(
        "origin", ("handshake",), "A page of this origin may not connect.",
        "The page's origin is not in auth.allowed_origins; scheme and port belong to it.",
        "Connect from a page of the application.",
        "Add the origin exactly as the browser sends it, as in 'https://app.example'; then SIGHUP.",
        ("auth.allowed_origins",), 403,
    ),
)  # fmt: skip

TENANTS: Final = (
    Explanation(
        "misdirected", ("handshake",), "The Host of the request is another tenant's than the name asked for in TLS.",
        "A proxy that changes Host or SNI, or a client that was told to connect somewhere else.",
        "Use one name for both.",
        "Let the proxy pass both on as they came.", status=421,
    ),
    Explanation(
        "no_such_tenant", ("api",), "No tenant of that name is served.",
        "A misspelt name, or a tenant that a reload has taken out.",
        "Use a name that GET /api/v1/info lists.", "Nothing.", status=404,
    ),
)  # fmt: skip

API: Final = (
    Explanation(
        "api_off", ("api",), "The API has no keys, so nobody can use it.",
        "Neither internal.api_keys_file nor internal.api_keys is set.",
        "Nothing.", "`openssl rand -hex 24` makes a key; put it into the file and send SIGHUP.",
        ("internal.api_keys_file", "internal.api_keys"), 403,
    ),
    Explanation(
        "api_key_missing", ("api",), "The request brought no key.",
        "No `Authorization: Bearer KEY`, or another scheme.",
        "Send the header.", "Nothing.", ("internal.api_keys_file", "internal.api_keys"), 401,
    ),
    Explanation(
        "api_key_wrong", ("api",), "The key is not one of the relay's.",
        "The file has changed and was not read again, or the key is another relay's.",
        "Use the key of this relay.", "SIGHUP reads the file again.",
        ("internal.api_keys_file", "internal.api_keys"), 401,
    ),
    Explanation(
        "too_many_revocations", ("api",), "As many revocations are in force as there may be.",
        "None is ever forgotten, because auth.max_lifetime is 0; or tokens are revoked one by one where all of a"
        " subject, or all from before a moment, are meant.",
        "Nothing.",
        "Set auth.max_lifetime, revoke by `issued_before`, take some back (`relay revoke --undo`), or raise the bound.",
        ("auth.max_revocations", "auth.max_lifetime"), 507,
    ),
    Explanation(
        "no_such_plugin", ("api",), "No plugin of that name runs here.",
        "The name is that of its table in the configuration, not of its class.",
        "Ask for `GET /api/v1/plugins`.", "Look at the [plugins.NAME] tables; a new one needs a restart.",
        (), 404,
    ),
    Explanation(
        "plugin_refused", ("api",), "The newer version of the plugin cannot take its place; the old one stays.",
        "Its code or its settings have a mistake, or its rooms have changed, which needs a restart.",
        "Nothing.", "The reason names each mistake with its file and line: mend them, and reload again.",
        ("supervision.directory",), 409,
    ),
    Explanation(
        "no_such_revocation", ("api",), "There is no revocation with exactly these conditions.",
        "It was taken back, its time is over, or the conditions are others than those it was made with.",
        "Nothing.", "`relay revoke --list` shows those in force, with their conditions.", status=404,
    ),
)  # fmt: skip

ENTRIES: Final = (*TLS, *ADDRESS, *HTTP, *TENANTS, *API)
