"""The command: measures the relay, a bare C loop and other servers under the same loads, and judges the bars.

    python -m benchmarks                     all loads, five rounds: about ten minutes
    python -m benchmarks fanout --quick      a short look
    python -m benchmarks all --write-docs    and put the tables into docs/performance.md

Not here: loads (loads), servers (servers), figures (runs), tables (report). The one rule: nothing is left out
in silence.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

import click

from benchmarks import report
from benchmarks.ctools import Missing, compile_tools
from benchmarks.loads import ALL, RELAY, Load, Summaries
from benchmarks.runs import Pace, measure
from benchmarks.servers import SERVERS, Server, Stage

QUICK: Final = Pace(measured=1.5, warm=0.4, settle=0.3)
FULL: Final = Pace(measured=4.0, warm=1.0, settle=0.7)
BUSY: Final = 0.5  # load average above which one is warned


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("loads", nargs=-1, type=click.Choice([*ALL, "all"]))
@click.option("--rounds", type=click.IntRange(1), help="Rounds of each load. [default: 5, with --quick 2]")
@click.option("--quick", is_flag=True, help="Short runs, few rounds: good for a look, not for a figure.")
@click.option("--server", "chosen", multiple=True, type=click.Choice(list(SERVERS)), help="Only these servers.")
@click.option("--server-core", default=0, show_default=True, help="Core of the server.")
@click.option("--load-core", default=1, show_default=True, help="Core of the load generator.")
@click.option("--write-docs", is_flag=True, help="Put the tables into docs/performance.md.")
def main(
    loads: tuple[str, ...],
    rounds: int | None,
    quick: bool,
    chosen: tuple[str, ...],
    server_core: int,
    load_core: int,
    write_docs: bool,
) -> None:
    """Measure the relay against a bare C loop and other servers; LOADS: all of them unless named.

    Close everything else that runs: the server has one core and the load generator the other.
    """
    if write_docs and (quick or chosen):
        raise click.UsageError("--write-docs is for whole measurements: without --quick and --server")
    wanted = list(ALL.values()) if not loads or "all" in loads else [ALL[name] for name in dict.fromkeys(loads)]
    rounds = rounds or (2 if quick else 5)
    pace = QUICK if quick else FULL
    _check_machine(server_core, load_core)
    try:
        tools = compile_tools()
    except Missing as missing:
        raise click.ClickException(str(missing)) from None
    about = report.environment()
    found: dict[str, Summaries] = {}
    blocks: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder:
        stage = Stage.prepare(Path(folder), tools, server_core, load_core)
        for load in wanted:
            servers = _servers(load, chosen)
            found[load.name] = measure(load, servers, stage, rounds=rounds, pace=pace, tell=_tell)
            blocks[load.name] = report.block(load, found[load.name], about, rounds)
            click.echo(f"\n## {load.title}\n\n{blocks[load.name]}\n")
    path = report.save(found, about, {"rounds": rounds, "quick": quick})
    _tell(f"all figures: {path}")
    if write_docs:
        report.write_page(blocks)
        _tell(f"written: {report.PAGE}")
    if any(summaries[RELAY].failures for summaries in found.values() if RELAY in summaries):
        raise click.ClickException("the relay failed under a load")


def _servers(load: Load, chosen: tuple[str, ...]) -> list[Server]:
    servers = [SERVERS[name] for name in load.servers if not chosen or name in chosen]
    there = []
    for server in servers:
        if missing := server.missing():
            _tell(f"{load.name}: SKIPPED {server.title}: not installed: {', '.join(missing)}")
        else:
            there.append(server)
    if not there:
        raise click.UsageError(f"{load.name} is for these servers: {', '.join(load.servers)}")
    return there


def _check_machine(server_core: int, load_core: int) -> None:
    if not hasattr(os, "sched_getaffinity"):
        raise click.ClickException("processes cannot be bound to cores here; this needs Linux")
    cores = os.sched_getaffinity(0)
    if server_core == load_core or not {server_core, load_core} <= cores:
        raise click.ClickException(f"server and load generator need a core each; there are: {sorted(cores)}")
    busy = os.getloadavg()[0]
    if busy > BUSY:
        _tell(f"WARNING: the load average is {busy:.1f}: something else runs, and figures will be too high")


def _tell(line: str) -> None:
    click.echo(line, file=sys.stderr)


if __name__ == "__main__":
    main()
