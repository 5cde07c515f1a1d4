"""Listening Unix sockets: a file of its own for each, with a mode; gone when the socket is closed.

Not here: accepting (listener). The one rule: a file is removed only where it is a socket and nobody answers on it, or
where it is our own; under a lock on its folder, so that two relays that start at once do not remove each other's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from relay.config.address import path_problem

LOCK_TRIES: Final = 50
LOCK_PAUSE: Final = 0.02  # seconds


class UnixListener(socket.socket):
    """Its file goes when it is closed, unless it is another's by then."""

    def __init__(self, path: Path) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self.path: Final = path
        self._made: tuple[int, int] | None = None

    def made(self) -> None:
        """The file is there, and ours."""
        self._made = _which(self.path)

    def set_mode(self, mode: int) -> None:
        """Who may connect from now on. Raises OSError."""
        self.path.chmod(mode)

    def close(self) -> None:
        if self._made is not None and self._made == _which(self.path):
            with suppress(OSError):
                self.path.unlink()
        self._made = None
        super().close()


def listen_on(path: Path, mode: int, backlog: int) -> UnixListener:
    """A listening socket that does not block. Raises OSError."""
    if problem := path_problem(str(path)):
        raise OSError(errno.ENAMETOOLONG, problem)
    sock = UnixListener(path)
    try:
        sock.setblocking(False)
        with _alone_in(path.parent):
            _remove_stale(path)
            before = os.umask(0o777 & ~stat.S_IRUSR & ~stat.S_IWUSR)  # until it has its mode nobody else gets in
            try:
                sock.bind(str(path))
            finally:
                os.umask(before)
            sock.made()
            sock.set_mode(mode)
            sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def place_problem(path: Path) -> str | None:
    """What will keep a socket from being there, as far as it can be known before: for `relay check`."""
    if problem := path_problem(str(path)):
        return problem
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    if path.exists() and not path.is_socket():
        return f"{path} is there, and is no socket"
    return None


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Nobody else who asks so removes or makes a socket there meanwhile. Raises OSError."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise OSError(errno.ENOENT, f"there is no folder {folder}") from None
    try:
        for tried in range(LOCK_TRIES):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if tried == LOCK_TRIES - 1:
                    raise OSError(errno.EBUSY, f"somebody else holds a lock on {folder}") from None
                time.sleep(LOCK_PAUSE)  # at start, or in a reload; another relay that starts needs a millisecond
        yield
    finally:
        os.close(lock)


def _remove_stale(path: Path) -> None:
    """The file of a relay that was killed goes. Raises OSError where it is no such thing."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "it is there, and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass  # somebody listens, who has much to do
        except OSError as error:
            raise OSError(error.errno, f"it is there, and may be in use ({error.strerror})") from None
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _which(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
