"""The front of the house: what a TCP connection goes through before it is a session, and the HTTP pages beside it."""
