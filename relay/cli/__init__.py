"""The command line: one command a file, all of them thin.

Not here: any fact about the relay; a command asks the module that knows. The one rule: `relay --help` is quick, so at
the top of a command's file stand click and the standard library only, and it imports what it needs when it runs.

Exit status: 0 done; 1 no; 2 the command line is wrong; 78 the configuration is wrong (EX_CONFIG of sysexits.h).
"""

from __future__ import annotations


def main() -> None:
    """The entry point `relay`."""
    from relay.cli.root import cli

    cli(prog_name="relay")
