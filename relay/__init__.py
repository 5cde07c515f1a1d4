"""A secure WebSocket relay on Trio, extended by plugins. Start reading at docs/architecture.md."""

__version__ = "0.1.0"
