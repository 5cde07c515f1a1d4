"""A slow link between two network namespaces: real TCP over a rate, a delay, a queue and loss.

The server and all publishers live on one side, the measured client on the other. Not here: what runs there. The one
rule: whatever happens, namespaces and the emulator are gone when the block is left.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.ctools import BUILD, ROOT, VARIABLE, Missing

SIBLING: Final = ROOT.parent / "shared" / "tools" / "link"
SERVER_ADDRESS: Final = "10.9.0.1"
CLIENT_ADDRESS: Final = "10.9.0.2"
AHEAD_OF_OTHERS: Final = -10  # the emulator is the clockwork: its own lateness would be measured as the server's


@dataclass(frozen=True, slots=True)
class Profile:
    """A link: Mbit/s each way, milliseconds one way, KB of queue at the bottleneck, per cent of packets lost."""

    name: str
    rate: float
    delay: float
    queue: int
    loss: float = 0.0

    @property
    def title(self) -> str:
        lost = f", {self.loss:g} % loss" if self.loss else ""
        return f"{self.rate:g} Mbit/s, {self.delay:g} ms each way, {self.queue} KB queue{lost}"


@dataclass(frozen=True, slots=True)
class Link:
    """A link that is up."""

    profile: Profile
    server_side: str
    client_side: str

    def at_server(self, command: Sequence[str]) -> list[str]:
        """The command that runs `command` on the server's side; it becomes that process, so its pid is the same."""
        return ["ip", "netns", "exec", self.server_side, *command]

    def at_client(self, command: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.client_side, *command]


def check() -> None:
    """Raises Missing, with all that keeps a link from being made."""
    wanted = [
        (os.geteuid() == 0, "network namespaces need root: run it as root or with sudo"),
        (Path("/dev/net/tun").exists(), "no /dev/net/tun: load the kernel module `tun`"),
        (shutil.which("ip") is not None, "no `ip`: apt-get install iproute2"),
    ]
    problems = [problem for holds, problem in wanted if not holds]
    if problems:
        raise Missing("; ".join(problems))


def compile_emulator() -> Path:
    """`tunlink`, compiled again where its source is newer. Raises Missing."""
    tools = os.environ.get(VARIABLE)
    folders = [SIBLING] if tools is None else [Path(tools), Path(tools) / "link", Path(tools).parent / "link"]
    source = next((found for folder in folders if (found := folder / "tunlink.c").is_file()), None)
    if source is None:
        raise Missing(f"no tunlink.c in {folders[0]}: set {VARIABLE} to the folder that holds it")
    target = BUILD / source.stem
    if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
        return target
    if shutil.which("gcc") is None:
        raise Missing("no gcc: apt-get install gcc libc6-dev")
    BUILD.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-O2", "-w", "-o", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"gcc could not compile {source.name}\n{done.stderr.strip()}")
    return target


@contextmanager
def link(profile: Profile, congestion: str | None = None) -> Iterator[Link]:
    """A link between two fresh namespaces. `congestion` names the server side's control, None: the system's."""
    emulator = compile_emulator()
    server_side, client_side = f"urgA{os.getpid()}", f"urgB{os.getpid()}"
    ends = (server_side, SERVER_ADDRESS, CLIENT_ADDRESS), (client_side, CLIENT_ADDRESS, SERVER_ADDRESS)
    options = (profile.rate, profile.delay, profile.queue, round(profile.loss * 10))  # loss in per mille
    process = None
    try:
        for side, _, _ in ends:
            _run("ip", "netns", "add", side)
        process = subprocess.Popen(
            [str(emulator), server_side, client_side, *(f"{option:g}" for option in options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        if process.stdout.readline().strip() != b"ready":
            raise Missing("the link emulator could not make its tun devices")
        os.setpriority(os.PRIO_PROCESS, process.pid, AHEAD_OF_OTHERS)
        for side, own, other in ends:  # a device has the name of the namespace it is for
            _run("ip", "link", "set", side, "netns", side)
            _run("ip", "-n", side, "addr", "add", own, "peer", other, "dev", side)
            _run("ip", "-n", side, "link", "set", side, "up", "mtu", "1500")
            _run("ip", "-n", side, "link", "set", "lo", "up")
        if congestion is not None:
            setting = "/proc/sys/net/ipv4/tcp_congestion_control"
            _run("ip", "netns", "exec", server_side, "sh", "-c", f"echo {congestion} > {setting}")
        yield Link(profile, server_side, client_side)
    finally:
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        for side, _, _ in ends:
            subprocess.run(["ip", "netns", "del", side], capture_output=True, check=False)


def _run(*command: str) -> None:
    """Raises Missing with what the command said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
