"""Rates and counts. Pure; the caller brings `now`."""
