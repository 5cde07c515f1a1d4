"""Sockets, TLS, HTTP and the WebSocket engine."""
