"""Bounds on clients and on what they send: the table [limits].

Not here: rates of the operator's own (quotas), deadlines (schema). The one rule: every bound is on from the start.
"""

from __future__ import annotations

from typing import Annotated

from relay.config.table import Bytes, Count, Seconds, Table, about, items


class Limits(Table, frozen=True):
    """Bounds, on from the start. 0 switches a count or a rate off; a burst of 0 is what one second may bring."""

    max_connections: Annotated[Count, about("Connections in the whole process; further ones get 503.")] = 20000
    connections_per_address: Annotated[
        Count, about("Connections from one address (IPv6: one network of ipv6_prefix bits); further ones get 429.")
    ] = 200
    connections_per_subject: Annotated[Count, about("WebSocket connections of one subject; further ones get 429.")] = 32
    handshakes_per_address: Annotated[float, about("New connections a second from one address.", ge=0)] = 50.0
    handshakes_burst: Annotated[Count, about("New connections one address may open at once.")] = 200
    ipv6_prefix: Annotated[
        int,
        about("Bits of an IPv6 address that count as one address: what one subscriber gets.", ge=16, le=128),
    ] = 64
    allow_addresses: Annotated[
        list[str],
        about(
            "Networks (CIDR) whose clients may connect; []: all. Of the networks an address is in, the smallest "
            "decides, here or in deny_addresses."
        ),
    ] = items()
    deny_addresses: Annotated[
        list[str],
        about("Networks (CIDR) whose clients are turned away before TLS; of the same network in both, this decides."),
    ] = items()
    auth_failures: Annotated[
        Count,
        about("Bad tokens from one address within auth_failures_window; then it has to wait, and gets 429 meanwhile."),
    ] = 20
    auth_failures_window: Annotated[
        Seconds, about("Seconds over which bad tokens are counted. A good one forgives all.")
    ] = 60.0
    auth_backoff: Annotated[
        Seconds, about("The first wait after too many bad tokens, seconds; each further bad token doubles it.")
    ] = 1.0
    auth_backoff_max: Annotated[Seconds, about("The longest such wait, seconds.")] = 300.0
    memory_bytes: Annotated[
        Bytes,
        about(
            "Memory of the process above which new connections get 503 and those for whom most waits are closed with "
            "4250; 0: no such mark."
        ),
    ] = 0
    memory_share: Annotated[
        float,
        about(
            "The same as a share of the memory limit of the cgroup (v2) that the process is in, if it has one; "
            "0: no such mark.",
            ge=0,
            lt=1,
        ),
    ] = 0.9
    pending_handshakes: Annotated[
        Count,
        about(
            "Connections not yet through TLS, request head and authentication. Beyond it the one that has waited "
            "longest for its client is cut, or further ones wait in the kernel."
        ),
    ] = 1000
    slow_handshakes_per_address: Annotated[
        float,
        about(
            "Connections a second of one address that may be cut because TLS or request head did not come in time; "
            "an address with more is let in no further, for 30 seconds at most.",
            ge=0,
        ),
    ] = 1.0
    slow_handshakes_burst: Annotated[Count, about("Such connections of one address at once.")] = 50
    head_bytes: Annotated[int, about("Largest request head, bytes; beyond it 431.", ge=256)] = 8192
    head_fields: Annotated[int, about("Most header fields in a request head; beyond it 431.", ge=8)] = 64
    message_bytes: Annotated[int, about("Largest message from a client, bytes; beyond it close code 1009.", ge=1)] = (
        65536
    )
    sockets_per_session: Annotated[
        int, about("WebSockets one session may have (`?session=…&channels=…`), the first included.", ge=1)
    ] = 4
    parted_message_bytes: Annotated[
        Bytes, about("Largest message a relay.v1 client may send in parts, bytes; 0: none may.")
    ] = 16777216
    parted_bytes: Annotated[Bytes, about("Bytes of messages in parts that are not whole yet, of one connection.")] = (
        16777216
    )
    parted_streams: Annotated[Count, about("Messages in parts that one connection may be sending at once.")] = 8
    fragments: Annotated[int, about("Most fragments in a message; beyond it close code 1009.", ge=1)] = 1024
    control_frames: Annotated[
        float, about("Pings and pongs a second from one client; beyond it close code 1008.", ge=0)
    ] = 20.0
    control_frames_burst: Annotated[Count, about("Pings and pongs one client may send at once.")] = 100
    rooms: Annotated[Count, about("Rooms open at once, of a tenant where there are tenants; 0: any number.")] = 0
    rooms_per_connection: Annotated[Count, about("Rooms one connection may be in.")] = 128
    public_claims_bytes: Annotated[
        Bytes,
        about("Bytes (as JSON) of the claims of one token that plugins.NAME.presence_claims shows; more is left out."),
    ] = 1024
    patterns_per_connection: Annotated[
        Count, about("Patterns (`join` with `sensors:*`) one connection may hear; 0: none.")
    ] = 16
    pattern_rooms: Annotated[
        Count, about("Open rooms that one connection may hear through its patterns; 0: any number.")
    ] = 10000
    room_name_bytes: Annotated[int, about("Longest room name, bytes of UTF-8.", ge=1, le=1024)] = 255
    messages_per_second: Annotated[
        float, about("Messages a second from one connection; what exceeds it is read more slowly.", ge=0)
    ] = 1000.0
    messages_burst: Annotated[Count, about("Messages one connection may send at once.")] = 2000
    bytes_per_second: Annotated[
        float, about("Bytes a second from one connection; what exceeds it is read more slowly.", ge=0)
    ] = 8388608.0
    bytes_burst: Annotated[Bytes, about("Bytes one connection may send at once.")] = 16777216
    slow_down: Annotated[
        Seconds,
        about(
            "Longest time reading from one connection is put off because of its rates, seconds; a client that owes "
            "more is closed with 4229."
        ),
    ] = 5.0
    requests_waiting: Annotated[
        int,
        about(
            "Requests of one connection that may wait for asynchronous plugin hooks, per channel; then reading pauses.",
            ge=1,
        ),
    ] = 64
