"""Networks whose connections the kernel drops before they are any: a packet filter on a listening socket.

Turning a connection away costs an accept and a close, some 30 microseconds; hundreds that come in one moment are a
pause for whoever is behind them in the kernel's queue. So a network that was turned away `FEW` times within `WINDOW`
seconds is shut out by a filter (Linux, socket(7): SO_ATTACH_FILTER) for as long as it would be turned away anyway. Its
clients' SYN packets are dropped; TCP sends them again after 1, 3, 7 … seconds, so who waits gets in when it is over.

Not here: who is turned away, and for how long (limits/pending). The one rule: a filter is a matter of cost alone; where
there is none, because the system has no such thing or more than `MOST` networks are shut out, the rest is turned away.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import logging
import math
import socket
import struct
import sys
from typing import Final, NamedTuple

log = logging.getLogger("relay.net")

FEW: Final = 8
WINDOW: Final = 1.0  # seconds
MOST: Final = 64
_COUNTED: Final = 1024  # networks whose refusals are counted within one WINDOW

# linux/socket.h, linux/bpf_common.h, linux/filter.h (struct sock_filter, struct sock_fprog)
_ATTACH: Final = 26
_DETACH: Final = 27
_LOAD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_NETWORK_HEADER: Final = 0xFFF00000  # SKF_NET_OFF: an offset from here is one into the IP header
_SOURCE: Final = {4: 12, 6: 8}  # where the source address begins there
_ALL: Final = 0xFFFFFFFF
_SIZE: Final = 8  # bytes of an instruction


class Shut(NamedTuple):
    """`network`, an IPv4 address or an IPv6 network, is turned away for so many `seconds`."""

    network: str
    seconds: float


class Sieve:
    """What one listening socket lets through. Connections accepted from it meanwhile have inherited its filter:
    `release` takes that off. It drops nothing of theirs, but costs each of their packets a little.

    Times are the caller's `now`. `until`: when `settle` has to be called next; infinite: nobody is shut out.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._works = sys.platform.startswith("linux") and listener.family in (socket.AF_INET, socket.AF_INET6)
        self._version = 6 if listener.family == socket.AF_INET6 else 4
        self._shut: dict[str, float] = {}
        self._refused: dict[str, int] = {}
        self._window = -math.inf
        self._changed = False

    @property
    def until(self) -> float:
        return min(self._shut.values(), default=math.inf)

    def refused(self, shut: Shut, now: float) -> None:
        """One more connection was turned away."""
        if not self._works:
            return
        if now >= self._window + WINDOW or len(self._refused) >= _COUNTED:
            self._refused.clear()
            self._window = now
        times = self._refused[shut.network] = self._refused.get(shut.network, 0) + 1
        if times >= FEW and shut.network not in self._shut and len(self._shut) < MOST:
            self._shut[shut.network] = now + shut.seconds
            self._changed = True

    def settle(self, now: float) -> None:
        """Brings the kernel's filter to what it should be now. Raises nothing."""
        for network in [network for network, until in self._shut.items() if until <= now]:
            del self._shut[network]
            self._changed = True
        if self._changed:
            self._changed = False
            try:
                self._attach()
            except OSError as error:
                log.warning("the kernel takes no filter for a listening socket: %s", error.strerror)
                self._works = False
                self._shut.clear()

    def _attach(self) -> None:
        networks = [ipaddress.ip_network(network) for network in self._shut if "%" not in network]
        wanted = [network for network in networks if network.version == self._version]
        if wanted:
            compiled = program(wanted)
            code = ctypes.create_string_buffer(compiled, len(compiled))
            argument = struct.pack("@HP", len(code) // _SIZE, ctypes.addressof(code))
            self._listener.setsockopt(socket.SOL_SOCKET, _ATTACH, argument)
        else:
            release(self._listener)


def release(sock: socket.socket) -> None:
    """Takes a filter off, if there is one."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def program(networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bytes:
    """In classic BPF: packets from these networks, all of one IP version, are dropped, all others pass."""
    code = b"".join(_block(network) for network in networks)
    return code + _instruction(_RETURN, _ALL)


def _block(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bytes:
    """Compares word by word, and leads to what follows at the first that differs."""
    left, words = network.prefixlen, network.network_address.packed
    steps: list[tuple[int, int]] = []
    for number in range(math.ceil(left / 32)):
        (word,) = struct.unpack_from("!I", words, 4 * number)
        steps.append((_LOAD_WORD, _NETWORK_HEADER + _SOURCE[network.version] + 4 * number))
        if left < 32:
            steps.append((_AND, _ALL << (32 - left) & _ALL))
        steps.append((_JUMP_IF_EQUAL, word))
        left -= 32
    steps.append((_RETURN, 0))
    return b"".join(
        _instruction(code, value, otherwise=len(steps) - place - 1 if code == _JUMP_IF_EQUAL else 0)
        for place, (code, value) in enumerate(steps)
    )


def _instruction(code: int, value: int, *, otherwise: int = 0) -> bytes:
    """`otherwise`: how many instructions a comparison that fails leaves out."""
    return struct.pack("=HBBI", code, 0, otherwise, value)
