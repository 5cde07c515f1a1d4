"""One client's socket, with or without TLS: non-blocking and sync in both directions.

TLS is OpenSSL on the descriptor itself (what `ssl.SSLSocket` is built on), so a read or a write is one call and an
alert goes out by itself; `trio.SSLStream` costs three to five times more a message (docs/why/sync-hot-path.md). Not
here: what the bytes mean, when to write. The one rule: nothing here waits, except the `async` methods at the end, for
the few who are served by a task before, or instead of, a session.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, Protocol

import trio

from relay.net.pacing import PathInfo

READ_SIZE: Final = (
    16384  # a TLS record's largest payload: nothing is left behind in OpenSSL, so level-triggered polling is right
)
WRITE_SIZE: Final = 16384  # one record

# Of Linux' struct tcp_info (linux/tcp.h): snd_mss, unacked, sacked, lost, retrans, rtt, snd_cwnd, total_retrans,
# bytes_acked, notsent_bytes, min_rtt. Elsewhere the poller's "writable" must do.
_TCP_INFO: Final[int | None] = socket.TCP_INFO if sys.platform.startswith("linux") else None
_INFO: Final = struct.Struct("=16xI4xIIII28xI8xI16xI16xQ16xII")
_SIOCOUTQ: Final = 0x5411  # linux/sockios.h: bytes that are not acknowledged, sent or not
_SIOCOUTQNSD: Final = 0x894B  # bytes that are not sent
_INFO_SIZE: Final = _INFO.size
_TCP_CONGESTION: Final[int | None] = getattr(socket, "TCP_CONGESTION", None)
_TCP_USER_TIMEOUT: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)
_TCP_NOTSENT_LOWAT: Final[int | None] = getattr(socket, "TCP_NOTSENT_LOWAT", None)
_GONE: Final = frozenset(
    {
        errno.ECONNRESET,
        errno.EPIPE,
        errno.ECONNABORTED,
        errno.ETIMEDOUT,
        errno.ENOTCONN,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EBADF,
    }
)


_TELLING: Final[set[int]] = (
    set()
)  # address families of which `path_info` has told something: it need not be tried again


class Lost(trio.BrokenResourceError):
    """The connection broke; the text says how, for the log."""


WOULD_BLOCK: Final = (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError)
"""What `Transport.write` raises when the socket takes nothing now; after it the next write must begin with the same
bytes.
"""


class Wants(Enum):
    """What a TLS handshake goes on with."""

    NOTHING = 0
    """It is done."""
    READ = 1
    WRITE = 2


class Bare(Protocol):
    """What writes. As `Transport.write`."""

    @property
    def write(self) -> Callable[[bytes | memoryview], int]: ...


class _Plain:
    """A socket without TLS, as something that writes."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[bytes | memoryview], int]) -> None:
        self.write = write


class Transport:
    """A connected socket. `tls` tells whether it has TLS, whose handshake is still to be done or done; `asked_for` is
    then the name that the client asked for, where the context notes it (net/tls).

    `read` and `write` are what reads and writes, as bare as can be, for the two places where a function call counts.
    `write` takes at most WRITE_SIZE bytes and returns how many were taken; both raise WOULD_BLOCK or OSError. `bare` is
    what `write` belongs to: calling `bare.write` touches one object less. Everybody else uses `receive`, `send`.
    """

    __slots__ = (
        "__weakref__", "_secured", "asked_for", "bare", "fd", "half_closed", "knows_path", "lowat", "read", "sock",
        "tls", "write",
    )  # fmt: skip

    read: Callable[[int], bytes]
    write: Callable[[bytes | memoryview], int]

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext | None = None, *, unsent_bytes: int, congestion: str = "",
        unacknowledged: float = 0.0,
    ) -> None:  # fmt: skip
        """`context`: with TLS, as the server. `unacknowledged`: seconds after which bytes that nobody has acknowledged
        end the connection, where the system can (RFC 5482); 0: as long as the system likes. Raises OSError, also for a
        `congestion` this kernel does not have.
        """
        if sock.gettimeout() != 0.0:
            sock.setblocking(False)
        self.sock = sock
        self.fd = sock.fileno()
        self.tls = context is not None
        self.half_closed = False
        self.lowat = unsent_bytes
        self.asked_for: str | None = None
        # The object below `SSLSocket`, without one: it would be a second socket object for each connection, and its
        # Python methods cost as much as all else we do for a message.
        self._secured: Any = None if context is None else context._wrap_socket(sock, True, owner=self)  # type: ignore[attr-defined]
        below = self._secured
        self.read = sock.recv if below is None else below.read
        self.write = sock.send if below is None else below.write
        self.bare: Bare = below or _Plain(self.write)
        family = sock.family  # each look at it makes an enum's member
        if family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if congestion and _TCP_CONGESTION is not None:
                sock.setsockopt(socket.IPPROTO_TCP, _TCP_CONGESTION, congestion.encode())
            if unacknowledged and _TCP_USER_TIMEOUT is not None:
                sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, int(unacknowledged * 1000))
            if _TCP_NOTSENT_LOWAT is not None:
                sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, unsent_bytes)
            else:  # a small buffer is the next best bound on what cannot be overtaken any more
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * unsent_bytes)
        elif family == socket.AF_UNIX:  # the same: there is no other bound
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * unsent_bytes)
        self.knows_path = family in _TELLING or self.path_info() is not None
        if self.knows_path:
            _TELLING.add(family)

    @property
    def context(self) -> ssl.SSLContext:
        """What TLS goes by; the context's SNI callback may set another one, for the name that was asked for."""
        context: ssl.SSLContext = self._secured.context
        return context

    @context.setter
    def context(self, context: ssl.SSLContext) -> None:
        self._secured.context = context

    def handshake(self) -> Wants:
        """The TLS handshake, as far as it goes now. On failure the alert has been written (RFC 8446 section 6.2).
        Raises Lost.
        """
        try:
            self._secured.do_handshake()
        except ssl.SSLWantReadError:
            return Wants.READ
        except ssl.SSLWantWriteError:
            return Wants.WRITE
        except OSError as error:
            raise lost(error) from None
        except ValueError as error:  # a server name OpenSSL does not like
            raise Lost(str(error)) from None
        return Wants.NOTHING

    def receive(self) -> bytes | None:
        """What has come, at most READ_SIZE bytes; None: nothing yet; b"": the other side has ended. Raises Lost."""
        try:
            return self.read(READ_SIZE)
        except OSError as error:
            return self.read_failed(error)

    def read_failed(self, error: OSError) -> bytes | None:
        """What an exception of `read` means: None: nothing yet; b"": the end. Raises Lost for all else."""
        if isinstance(
            error, WOULD_BLOCK
        ):  # a key update may even wait for room to write; the next write takes it along
            return None
        if isinstance(error, ssl.SSLZeroReturnError | ssl.SSLEOFError):
            return b""
        raise lost(error) from None

    def send(self, data: bytes | memoryview) -> int:
        """Writes what the socket takes of at most WRITE_SIZE bytes, returns how much; 0: it must become writable first.

        After 0 the next call must begin with the same bytes (a TLS record may be half out). Raises Lost.
        """
        try:
            return self.write(data)
        except WOULD_BLOCK:
            return 0
        except OSError as error:
            raise lost(error) from None

    def path_info(self) -> PathInfo | None:
        """What the kernel knows of the connection (tcp(7), linux/tcp.h); None: this system does not tell."""
        if _TCP_INFO is None:
            return None
        try:
            raw = self.sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO_SIZE)
            held: int = struct.unpack("i", fcntl.ioctl(self.fd, _SIOCOUTQ, b"\0\0\0\0"))[0]
        except OSError:
            return None
        if len(raw) < _INFO_SIZE:
            return None
        mss, unacked, sacked, gone, again, rtt, window, repaired, acked, unsent, min_rtt = _INFO.unpack(raw)
        # The kernel counts packets, and ours are often smaller than the largest: what one holds is measured.
        each = (held - unsent) / unacked if unacked and held > unsent else mss
        return PathInfo(
            # What was received behind a gap counts as delivered, else the repair of the gap looks like a fast path.
            acked=acked + int(sacked * each),
            in_flight=int(max(0, unacked - sacked - gone + again) * each),
            unsent=unsent,
            window=int(window * each),
            repaired=repaired,
            min_rtt=min_rtt / 1e6,
            rtt=rtt / 1e6,
        )

    def unsent(self) -> int | None:
        """Bytes written here that the kernel has not sent yet; None: this system does not tell."""
        if _TCP_INFO is None:
            return None
        try:
            (held,) = struct.unpack("i", fcntl.ioctl(self.fd, _SIOCOUTQNSD, b"\0\0\0\0"))
        except OSError:
            return None
        return int(held)

    def broken(self) -> Lost | None:
        """What broke the connection without anybody reading or writing; None: nothing."""
        number = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return lost(OSError(number, os.strerror(number))) if number else None

    def congestion(self) -> str:
        """The congestion control in use; "" where this system does not tell."""
        if _TCP_CONGESTION is None:
            return ""
        try:
            return self.sock.getsockopt(socket.IPPROTO_TCP, _TCP_CONGESTION, 16).rstrip(b"\0").decode()
        except OSError:
            return ""

    def set_congestion(self, name: str) -> bool:
        """Changes it on the live connection. False: not to be had."""
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, _TCP_CONGESTION or 0, name.encode())
        except OSError:
            return False
        return True

    def peer_certificate(self) -> bytes | None:
        """The client's certificate, DER, verified in the handshake; None: it has none, or there is no TLS."""
        if self._secured is None:
            return None
        found: bytes | None = self._secured.getpeercert(True)
        return found

    def half_close(self) -> None:
        """Says that nothing more will be sent; what still comes can only be read to be dropped, undecrypted."""
        self.half_closed = True
        self._say_goodbye()
        self.read = self.sock.recv
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        """Ends the connection, with TLS's close_notify if it goes out at once."""
        if not self.half_closed:
            self.half_closed = True  # whoever closes twice says goodbye once
            self._say_goodbye()
        self.sock.close()

    def _say_goodbye(self) -> None:
        if self._secured is not None:
            try:
                self._secured.shutdown()
            except (OSError, ValueError):
                pass

    def abort(self) -> None:
        """Ends the connection with a reset: what the kernel holds unsent is dropped, no TIME_WAIT stays behind."""
        self.half_closed = True
        reset(self.sock)
        self.sock.close()

    # For those who are served by a task.

    async def receive_some(self) -> bytes:
        """At least one byte, b"" at the end. Raises Lost."""
        await trio.lowlevel.checkpoint_if_cancelled()
        data = self.receive()
        if data is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return data
        while data is None:
            await trio.lowlevel.wait_readable(self.fd)
            data = self.receive()
        return data

    async def send_all(self, data: bytes) -> None:
        """Raises Lost."""
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        while rest:
            sent = self.send(rest[:WRITE_SIZE])
            if not sent:
                await trio.lowlevel.wait_writable(self.fd)
            rest = rest[sent:]


def reset(sock: socket.socket) -> None:
    """Closing it will be a reset."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass


def lost(error: OSError) -> Lost:
    """What the operating system or OpenSSL said, in a word or two."""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):  # told apart from what is wrong with the TLS
        return Lost("the client has ended")
    if isinstance(error, ssl.SSLError):
        return Lost(f"TLS: {error.reason or error.__class__.__name__}")
    if error.errno in _GONE:
        return Lost(errno.errorcode.get(error.errno, str(error.errno)))
    return Lost(str(error))
