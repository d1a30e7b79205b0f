"""What jobs took and how long they waited, into the worker's row and histograms."""

from __future__ import annotations

from shmq.clock import now_ns
from shmq.memory.layout import HISTOGRAM_BUCKETS, WORKER
from shmq.wire.header import SUBMITTED_WORD
from shmq.worker.seat import Seat

_BUSY, _WAIT_SUM = WORKER["busy_ns"], WORKER["wait_sum_ns"]


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

    def record(self, spent_ns: int, waited_ns: int, jobs: int = 1) -> None:
        """Add to the worker's histograms."""
        self._services[bucket_of(spent_ns)] += jobs
        self._waits[bucket_of(waited_ns)] += jobs
        self._row[_WAIT_SUM] += max(waited_ns, 0) * jobs
        self.recorded += jobs
        self.recorded_ns += spent_ns * jobs

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
