"""The configuration: what can be set (schema), how it is read (loader) and shown (render)."""

from relay.config.address import parse_listen, unix_path
from relay.config.loader import LoadedConfig, check_files, load, read_api_keys, read_secret, survey
from relay.config.schema import Config

__all__ = [
    "Config",
    "LoadedConfig",
    "check_files",
    "load",
    "parse_listen",
    "read_api_keys",
    "read_secret",
    "survey",
    "unix_path",
]
