"""The first word to a client: who it is here, and what it may do.

Not here: when it is said (connection, resume). The one rule: what it says holds for the session, so that a client need
not ask again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.protocols.base import Hello

if TYPE_CHECKING:
    from relay.session.connection import Connection


def greet(connection: Connection, *, resumed: bool = False) -> bytes | None:
    """`resumed`: the session goes on, and this is another socket's beginning."""
    if connection.protocol.subprotocol is None:
        return None  # plain mode has no envelope to say it in
    services, config = connection.services, connection.services.config
    limits = config.limits
    identity = connection.identity
    return connection.protocol.hello(
        Hello(
            connection.session,
            connection.subject,
            identity.expires,
            [name for name in services.channels.names if identity.grants.may_use_channel(name)],
            {
                "message_bytes": limits.message_bytes,
                "messages_per_second": limits.messages_per_second,
                "bytes_per_second": limits.bytes_per_second,
                "rooms_per_connection": limits.rooms_per_connection,
                "part_bytes": config.outbox.part_bytes,
                "parted_message_bytes": limits.parted_message_bytes,
            },
            config.websocket.heartbeat,
            services.version,
            services.resumption.offer(connection),
            resumed,
        )
    )
