"""How messages leave: channels, and the outbox of one connection. Pure; the caller brings time and bytes."""
