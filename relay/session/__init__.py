"""One connection after the handshake: what it reads, what it is told, when it ends."""
