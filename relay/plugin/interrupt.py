"""Breaks off what a plugin does when it holds the loop: raises an exception in the plugin's own code.

A signal interrupts the loop's thread between two instructions, or a call that waits (a `time.sleep` ends). Its handler
raises where the plugin stands - but never inside the relay or Trio, whose state would be torn: if the plugin is in the
middle of calling them, it happens at the plugin's next line. Not here: when (watchdog). The one rule: an exception is
raised only while the very call goes on that was to be broken off.

SIGURG is the signal, as in the Go runtime: it is ignored by default, and nobody else uses it.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final

import trio

from relay.plugin.faults import Interrupted

TRIES: Final = 2000
WHY: Final = "it held the loop for too long [supervision.interrupt]"
BETWEEN: Final = 0.0005  # seconds between two tries
_OURS: Final = tuple(f"{Path(place).resolve().parent}/" for place in (trio.__file__, Path(__file__).parent))


class Interrupt:
    """`files`: a plugin's source file -> its name. Works only where the loop is in the process's main thread."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files
        self._state: Callable[[], object] = lambda: None
        self._condemned: object = None
        self._before: Any = None
        self._installed = False

    def install(self, state: Callable[[], object]) -> None:
        """`state` tells what the loop is doing; called in the loop's thread."""
        self._state = state
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGURG"):
            self._before = signal.signal(signal.SIGURG, self._arrived)
            self._installed = True

    def remove(self) -> None:
        if self._installed:
            self._installed = False
            signal.signal(signal.SIGURG, self._before)

    def working(self, thread: int) -> str:
        """The plugin whose own code runs in that thread now, or what it has called that is not the relay's; else ""."""
        frame = sys._current_frames().get(thread)
        while frame is not None:
            file = frame.f_code.co_filename
            plugin = self._files.get(file)  # once: the loop may be taking it out
            if plugin is not None:
                return plugin
            if file.startswith(_OURS):
                break
            frame = frame.f_back
        return ""

    def strike(self, condemned: object, thread: int, over: Callable[[], bool]) -> None:
        """From the watchdog's thread: again and again, until the call is over. `over` tells."""
        if not self._installed:
            return
        self._condemned = condemned
        pause = threading.Event()
        for _ in range(TRIES):
            if over():
                break
            signal.pthread_kill(thread, signal.SIGURG)
            pause.wait(BETWEEN)
        self._condemned = None

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        condemned = self._condemned
        if condemned is None or self._state() != condemned:
            return
        ours = False
        while frame is not None:
            file = frame.f_code.co_filename
            if file in self._files:
                if not ours:
                    raise Interrupted(WHY)
                self._at_next_line(frame)  # in the middle of what must be whole
                return
            ours = ours or file.startswith(_OURS)
            frame = frame.f_back

    def _at_next_line(self, plugin: FrameType) -> None:
        """Raises when the plugin's own code goes on. Where a debugger traces already, the next signal has to do."""
        if sys.gettrace() is not None:
            return

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "exception":
                return trace
            sys.settrace(None)
            plugin.f_trace = None
            if event == "line" and self._condemned is not None and self._state() == self._condemned:
                raise Interrupted(WHY)
            return None

        plugin.f_trace = trace
        sys.settrace(lambda frame, event, argument: None)
