"""Plugins that ship with the relay: each one is readable on a screen, and an example for the next."""
