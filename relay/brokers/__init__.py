"""How messages reach other nodes."""
