"""The metrics that each tenant has of its own; with tenants, each has a label `tenant` in front.

Not here: what a metric is (entry), those of the whole process (process_figures). The one rule: the sum over all tenants
is what it would be without tenants.
"""

from __future__ import annotations

from typing import Final

from relay.ops.entry import Entry, each, one, pairs, sets

OF_TENANTS: Final = (
    # Connections.
    Entry(
        "tickets",
        "counter",
        "One-time tickets, by what became of them: issued, used, refused.",
        lambda c, g: each(c.tickets),
        ("outcome",),
    ),
    Entry(
        "resumes",
        "counter",
        "Sessions whose socket was lost: waiting (each, at first), and what became of them: resumed, missed (nobody "
        "came), closed; unknown: tickets that were no good.",
        lambda c, g: each(c.resumes),
        ("outcome",),
    ),
    Entry("handshakes", "counter", "WebSocket handshakes accepted.", lambda c, g: one(c.handshakes)),
    Entry("connections", "gauge", "WebSocket connections now.", lambda c, g: one(c.connections)),
    Entry(
        "protocol_connections",
        "gauge",
        "WebSocket connections now, by protocol.",
        lambda c, g: each(g.connections_by_protocol),
        ("protocol",),
    ),
    Entry(
        "connections_closed",
        "counter",
        "WebSocket connections ended, by close code; 1006: lost without a close frame;"
        " 3000, 4000: any code of the client's own.",
        lambda c, g: each(c.closed),
        ("code",),
    ),
    Entry("connections_dead", "counter", "Connections found dead by the heartbeat.", lambda c, g: one(c.dead)),
    # Traffic.
    Entry("messages_received", "counter", "Messages from clients.", lambda c, g: one(c.messages_in)),
    Entry("control_frames_received", "counter", "Control frames from clients.", lambda c, g: one(c.control_in)),
    Entry("received_bytes", "counter", "Bytes from clients, without TLS.", lambda c, g: one(c.bytes_in)),
    Entry("sent_bytes", "counter", "Bytes to clients, without TLS.", lambda c, g: one(c.bytes_out)),
    Entry(
        "writes",
        "counter",
        "Writes to sockets; messages delivered per write tell how much is sent together.",
        lambda c, g: one(c.writes),
    ),
    Entry(
        "deflate_input_bytes",
        "counter",
        "Bytes of messages before they were compressed; a frame that many share counts once.",
        lambda c, g: one(c.deflate_before),
    ),
    Entry(
        "deflate_output_bytes",
        "counter",
        "The same after it.",
        lambda c, g: one(c.deflate_after),
    ),
    Entry(
        "reads_put_off",
        "counter",
        "Times reading from a connection was put off because of its rates.",
        lambda c, g: one(c.slowed),
    ),
    Entry(
        "publishers_paused",
        "counter",
        "Times a publisher was not read because a reader of a channel that pauses could not keep up.",
        lambda c, g: one(c.paused),
    ),
    Entry(
        "urgent_delay_seconds",
        "histogram",
        "How long urgent messages waited for their turn, by channel.",
        lambda c, g: (),
        ("channel",),
    ),
    Entry(
        "urgent_late",
        "counter",
        "Urgent messages that waited longer than outbox.urgent_p99_ms for their turn, by channel.",
        lambda c, g: each(c.urgent_late),
        ("channel",),
    ),
    Entry(
        "requests_refused",
        "counter",
        "Requests refused on live connections, by code.",
        lambda c, g: each(c.refused),
        ("code",),
    ),
    Entry(
        "quota_limits",
        "counter",
        "Times a quota was at its limit, by its name and what was done: slowed, refused, dropped or closed.",
        lambda c, g: pairs(c.quotas),
        ("quota", "action"),
    ),
    Entry(
        "messages_dropped",
        "counter",
        "Messages that a client did not get, by the plugin of their room, channel and reason.",
        lambda c, g: sets(c.dropped),
        ("plugin", "channel", "reason"),
    ),
    Entry(
        "session_tokens",
        "counter",
        "What became of tokens on live sessions: renewed, refused, read_only, expired, revoked.",
        lambda c, g: each(c.tokens),
        ("outcome",),
    ),
    # Rooms.
    Entry("rooms", "gauge", "Open rooms on this node.", lambda c, g: one(g.rooms)),
    Entry("memberships", "gauge", "Connections in rooms; one in two rooms counts twice.", lambda c, g: one(g.members)),
    Entry("messages_published", "counter", "Messages published on this node.", lambda c, g: one(g.published)),
    Entry(
        "messages_delivered",
        "counter",
        "Messages put into outboxes, one for each receiver.",
        lambda c, g: one(g.delivered),
    ),
    Entry(
        "remembered_bytes",
        "gauge",
        "What rooms remember, in memory (at most history.memory_bytes).",
        lambda c, g: one(g.remembered_bytes),
    ),
    Entry(
        "rooms_asleep",
        "gauge",
        "Rooms that nobody is in and that are remembered.",
        lambda c, g: one(g.rooms_asleep),
    ),
    Entry(
        "disk_queue_bytes",
        "gauge",
        "What durable rooms have said and the disk has not yet.",
        lambda c, g: one(g.journal_bytes),
    ),
    Entry(
        "disk_failures",
        "counter",
        "Times that messages of durable rooms could not be written.",
        lambda c, g: one(g.journal_failures),
    ),
    Entry(
        "outbox_bytes",
        "gauge",
        "Bytes waiting for clients in this process, by channel.",
        lambda c, g: each(g.outbox_bytes),
        ("channel",),
    ),
    Entry(
        "unsent_bytes",
        "gauge",
        "Bytes the kernel has taken for clients and not sent yet; beyond 1,000 connections estimated from 1,000.",
        lambda c, g: one(g.unsent_bytes),
    ),
    Entry(
        "unsent_bytes_most",
        "gauge",
        "The most of them on one connection, of those looked at.",
        lambda c, g: one(g.unsent_bytes_most),
    ),
    # Plugins.
    Entry(
        "plugin_failures",
        "counter",
        "Exceptions out of plugin hooks, by plugin.",
        lambda c, g: each(c.plugin_failures),
        ("plugin",),
    ),
    Entry(
        "plugin_refusals",
        "counter",
        "Requests that plugins refused, by plugin.",
        lambda c, g: each(c.plugin_refusals),
        ("plugin",),
    ),
    Entry(
        "plugin_waits",
        "counter",
        "Calls of a slow plugin's hooks that waited for others of the plugin, so that other rooms were served between.",
        lambda c, g: each(c.plugin_waits),
        ("plugin",),
    ),
    # The process.
    Entry(
        "short_of_memory",
        "gauge",
        "1: memory is above its mark, and nobody new comes in.",
        lambda c, g: one(g.short_of_memory),
    ),
    Entry("connections_shed", "counter", "Connections ended because memory was short.", lambda c, g: one(c.shed)),
)
