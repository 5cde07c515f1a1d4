"""Plugins: what one may use (api), how they are found (loader), watched (supervisor) and tested (testing)."""
