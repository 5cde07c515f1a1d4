"""Many rooms, who is in them, and what they remember. Sync, no locks, no sockets."""
