"""How much of our bulk the path may hold: its own queue is the third one that urgent messages wait in.

What the kernel says of a connection (TCP_INFO) gives the delivery rate and the smallest round trip; their product is
what the path holds without a queue. More than that in flight only fills the bottleneck's buffer, and delays what is
urgent by as much. Not here: sockets, timers. The one rule: only bulk is held back, never what is urgent.

The estimate is BBR's (Cardwell et al., 2016): the greatest rate of the last rounds, times the smallest round trip,
with a gain that lets it grow while the rate still grows. It is kept here and not left to the kernel's congestion
control, because that fills the buffer while it starts, and cubic fills it always.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

SHORT: Final = 0.002  # seconds: over a shorter round trip nothing needs holding back, and timers are too coarse for it
FIRST_CAP: Final = 14600  # bytes: the initial window of RFC 6928
LEAST_CAP: Final = 5792  # bytes: four segments, as the least window of BBR
SEGMENT: Final = 1448  # bytes of one on an Ethernet path
SLACK: Final = (
    0.004  # seconds of the rate, beyond the estimate: acknowledgements come in bunches, and timers are coarse
)
FRESH_RECORD: Final = SEGMENT - 48  # bytes: with what TLS adds, one segment
FRESH_STEP: Final = 0.01  # seconds of the rate
ROUNDS: Final = 10  # over which the greatest rate counts
GAIN_START: Final = 2.0
GAIN_STEADY: Final = 1.05
GAIN_PROBE: Final = 1.25
PROBE_EVERY: Final = 8  # rounds


class PathInfo(NamedTuple):
    """What the kernel knows: bytes delivered since the start, in flight, not sent, and its window; segments sent
    again; round trips in
    seconds.
    """

    acked: int
    in_flight: int
    unsent: int
    window: int
    repaired: int
    min_rtt: float
    rtt: float


class Path:
    """The estimate of one connection's path. `now` in seconds, any monotonic clock."""

    __slots__ = ("_acked", "_best", "_gain", "_limited", "_plateau", "_rates", "_round", "_since", "min_rtt")

    def __init__(self) -> None:
        self.min_rtt = 0.0
        self._rates: deque[float] = deque(maxlen=ROUNDS)
        self._since = 0.0
        self._acked = 0
        self._limited = False
        self._best = 0.0
        self._gain = GAIN_START
        self._plateau = 0
        self._round = 0

    def room(self, info: PathInfo, now: float, *, fresh: bool = False) -> int:
        """Bytes of bulk that may be added now; 0 or less: wait for acknowledgements. `fresh`: what waits is replaced by
        newer values, so each byte that left early is one that will be old when it arrives.
        """
        self._learn(info, now)
        if self.min_rtt < SHORT:
            return 1 << 30
        held = info.in_flight + info.unsent
        room = (self.fresh_cap if fresh else self.cap) - held
        if room < (SEGMENT if fresh else 2 * SEGMENT):
            self._limited = True
        if 2 * info.window < self.cap:
            # The kernel sends far less for a while (BBR looks for the smallest round trip every 10 s): what it is given
            # beyond its window would wait in it, in front of what is urgent.
            room = min(room, info.window + SEGMENT - held)
        return room

    @property
    def cap(self) -> int:
        """Bytes that may be in flight."""
        if not self._rates:
            return FIRST_CAP
        rate = self.rate
        return max(LEAST_CAP, int(self._gain * rate * self.min_rtt) + max(4 * SEGMENT, int(rate * SLACK)))

    @property
    def fresh_cap(self) -> int:
        """The same for values that are replaced while they wait: two segments beyond the path, enough for a receiver
        that acknowledges every other one, and no probes; what a faster path takes more of, the two segments show.
        """
        if not self._rates:
            return FIRST_CAP
        rate = self.rate
        gain = min(self._gain, GAIN_STEADY)
        return max(LEAST_CAP, int(gain * rate * self.min_rtt) + max(2 * SEGMENT, int(rate * SLACK)))

    @property
    def fresh_step(self) -> int:
        """Bytes to write at once of such values: a record must be whole before any of it can be read."""
        return max(FRESH_RECORD, int(self.rate * FRESH_STEP))

    @property
    def rate(self) -> float:
        """What the path delivers, bytes a second; 0.0: not known yet."""
        return max(self._rates, default=0.0)

    @property
    def pause(self) -> float:
        """Seconds after which it is worth asking again."""
        return min(0.02, max(0.001, self.min_rtt / 16))

    def _learn(self, info: PathInfo, now: float) -> None:
        """One sample a round trip, and only of rounds that were held back by the cap: others tell about us, not the
        path.
        """
        self.min_rtt = info.min_rtt
        took = now - self._since
        if not self._since or took > 4 * max(info.rtt, 0.05):  # first, or idle since: nothing to learn from that time
            self._begin_round(info, now)
            return
        if took < max(info.rtt, 0.005):
            return
        rate = (info.acked - self._acked) / took
        if self._limited or not self._rates or rate > max(self._rates):
            self._rates.append(rate)
            self._turn(rate, info.rtt > 1.125 * info.min_rtt + 0.002)
        self._begin_round(info, now)

    def _begin_round(self, info: PathInfo, now: float) -> None:
        self._since = now
        self._acked = info.acked
        self._limited = False

    def _turn(self, rate: float, queued: bool) -> None:
        """Start until the rate has stopped growing, for three rounds or for two that left a queue; then steady, with a
        probe now and then.
        """
        self._round += 1
        if self._gain != GAIN_START:
            self._gain = GAIN_PROBE if self._round % PROBE_EVERY == 0 else GAIN_STEADY
        elif rate > 1.25 * self._best:
            self._best = rate
            self._plateau = 0
        else:
            self._plateau += 2 if queued else 1
            if self._plateau >= 3:
                self._gain = GAIN_STEADY
