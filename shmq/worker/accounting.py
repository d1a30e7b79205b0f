"""What jobs took and how long they waited, into the worker's row and histograms."""

from __future__ import annotations

from shmq.clock import NS, now_ns
from shmq.memory.layout import HISTOGRAM_BUCKETS, WORKER
from shmq.transport.claim import STRETCH_NS
from shmq.wire.header import SUBMITTED_WORD
from shmq.worker.seat import Seat

_BUSY, _WAIT_SUM = WORKER["busy_ns"], WORKER["wait_sum_ns"]
_LATELY_NS = 10 * NS


def bucket_of(ns: int) -> int:
    """Histogram bucket: four per octave (`shmq.observe.histogram` reads them)."""
    if ns < 8:
        return max(ns, 0)
    bits = ns.bit_length()
    return min((bits << 2) + ((ns >> (bits - 3)) & 3), HISTOGRAM_BUCKETS - 1)


class Accounts:
    """Books jobs for one worker: the slow ones one by one (`record`), then the rest of their batch (`book`)."""

    def __init__(self, seat: Seat) -> None:
        segment = seat.segment
        self._seat, self._row = seat, seat.row
        self._submitted = segment.slot_words(SUBMITTED_WORD)
        rows = slice(seat.index * HISTOGRAM_BUCKETS, (seat.index + 1) * HISTOGRAM_BUCKETS)
        self._services = segment.view("service_times")[rows]
        self._waits = segment.view("wait_times")[rows]
        self.recorded = self.recorded_ns = 0  # jobs of the batch that are in the histograms, and what they took
        self._long_ended_ns = 0  # when the last job of more than STRETCH_NS ended

    def record(self, spent_ns: int, waited_ns: int, jobs: int = 1) -> None:
        """Add to the worker's histograms."""
        self._services[bucket_of(spent_ns)] += jobs
        self._waits[bucket_of(waited_ns)] += jobs
        self._row[_WAIT_SUM] += max(waited_ns, 0) * jobs
        self.recorded += jobs
        self.recorded_ns += spent_ns * jobs
        if spent_ns > STRETCH_NS:
            self._long_ended_ns = now_ns()

    def has_seen_long_job(self) -> bool:
        """Has one of more than STRETCH_NS ended here lately? Then the next one may be such a job again."""
        return now_ns() - self._long_ended_ns < _LATELY_NS

    def book(self, slots: list[int], count: int, spent_ns: int) -> None:
        """Book a batch. Jobs not recorded yet are booked together: each as their mean, waited as the first did."""
        self._seat.count_ended(count)
        self._seat.counted = 0
        self._row[_BUSY] += spent_ns
        left = count - self.recorded
        if left > 0 and slots:
            submitted = self._submitted[slots[0]]
            mean = max(spent_ns - self.recorded_ns, 0) // left
            self.record(mean, now_ns() - spent_ns - submitted, left)
        self.recorded = self.recorded_ns = 0
