"""Measuring the relay: against a bare C loop and other servers (`run`), and its parts one by one (`micro`)."""
