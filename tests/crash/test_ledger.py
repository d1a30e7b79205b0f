"""The audit finds what was planted, and nothing else."""

from __future__ import annotations

import os
import time
import tracemalloc

import numpy as np
import pytest

from tests.crash import ledger
from tests.crash.ledger import ACCEPTED, EXECUTED, INTENT, KILL, RECORD, REDELIVERED, Book, check

PRODUCER, WORKER, OTHER_WORKER, SUPERVISOR = 100, 200, 201, 50


def payload(id_):
    return b"payload of %d" % id_


def write(folder, name, records):
    """A book from plain dictionaries, with a right check."""
    data = np.zeros(len(records), RECORD)
    for at, record in enumerate(records):
        for key, value in record.items():
            data[at][key] = value
    data["check"] = ledger._checks(data)
    (folder / f"{name}.book").write_bytes(data.tobytes())


def submission(id_, *, accepted=True):
    intent = {"kind": INTENT, "id": id_, "hash": ledger.payload_hash(payload(id_)), "pid": PRODUCER, "seq": id_}
    return [intent, {"kind": ACCEPTED, "id": id_, "pid": PRODUCER}] if accepted else [intent]


def execution(id_, *, pid=WORKER, at=0, **more):
    return {
        "kind": EXECUTED, "id": id_, "hash": ledger.payload_hash(payload(id_)), "pid": pid, "parent": SUPERVISOR,
        "attempt": 1, "seq": id_, "time_ns": at or 1000 + id_, **more,
    }  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run of ten jobs; what is given replaces the executions or the kills."""

    def make(executions=None, kills=(), submissions=range(1, 11), extra=()):
        write(tmp_path, "producer", [*(r for id_ in submissions for r in submission(id_)), *extra])
        write(tmp_path, "worker", executions if executions is not None else [execution(i) for i in range(1, 11)])
        write(tmp_path, "killer", list(kills))
        return tmp_path

    return make


def test_a_run_without_faults_is_clean(run):
    report = check(run())

    assert report.is_clean
    assert (report.submitted, report.accepted, report.executed) == (10, 10, 10)


def test_a_loss_is_found(run):
    report = check(run([execution(i) for i in range(1, 10)]))

    assert not report.is_clean
    assert (report.lost, report.examples["lost"]) == (1, [10])


def test_a_dead_letter_is_no_loss(run):
    assert check(run([execution(i) for i in range(1, 10)]), dead_lettered=[10]).is_clean


def test_a_job_that_was_not_accepted_may_run_or_not(run):
    cut_short = [*submission(11, accepted=False), *submission(12, accepted=False)]

    assert check(run([execution(i) for i in range(1, 12)], extra=cut_short)).is_clean


def test_a_phantom_is_found(run):
    report = check(run([execution(i) for i in range(1, 12)]))

    assert (report.phantom, report.examples["phantom"]) == (1, [11])


def test_altered_bytes_are_found(run):
    report = check(run([execution(i, hash=7) if i == 4 else execution(i) for i in range(1, 11)]))

    assert (report.altered, report.examples["altered"]) == (1, [4])


def test_two_jobs_with_swapped_payloads_are_found(run):
    swapped = {3: 4, 4: 3}
    hashes = {i: ledger.payload_hash(payload(swapped.get(i, i))) for i in range(1, 11)}

    assert check(run([execution(i, hash=hashes[i]) for i in range(1, 11)])).altered == 2


def test_a_swap_in_a_lane_is_found(run):
    report = check(run([execution(i) for i in (1, 2, 4, 3, 5, 6, 7, 8, 9, 10)]))

    assert (report.disordered, report.examples["out of order"]) == (1, [3])


def test_a_swap_after_redelivery_is_legal(run):
    jobs = [execution(i, flags=REDELIVERED if i == 3 else 0) for i in (1, 2, 4, 3, 5, 6, 7, 8, 9, 10)]

    assert check(run(jobs)).is_clean


def test_lanes_and_workers_have_an_order_of_their_own(tmp_path):
    write(tmp_path, "producer", [r for i in range(1, 5) for r in submission(i)])
    write(tmp_path, "worker", [execution(2, lane=1), execution(1, lane=2)])
    write(tmp_path, "other", [execution(4, lane=1, pid=OTHER_WORKER), execution(3, lane=2, pid=OTHER_WORKER)])

    assert check(tmp_path).is_clean


def test_a_duplicate_without_a_kill_is_found(run):
    report = check(run([*(execution(i) for i in range(1, 11)), execution(5, pid=OTHER_WORKER, at=9000, flags=1)]))

    assert (report.duplicates, report.unexplained, report.examples["unexplained"]) == (1, 1, [5])


@pytest.mark.parametrize("kill", [
    {"id": WORKER, "time_ns": 2000},
    {"id": SUPERVISOR, "time_ns": 2000, "flags": ledger.ALL_CHILDREN},
])  # fmt: skip
def test_a_duplicate_is_explained_by_the_death_of_the_earlier_worker(run, kill):
    jobs = [*(execution(i) for i in range(1, 11)), execution(5, pid=OTHER_WORKER, at=9000, flags=REDELIVERED)]

    report = check(run(jobs, kills=[{"kind": KILL, **kill}]))

    assert report.is_clean
    assert report.duplicates == 1


@pytest.mark.parametrize("kill", [
    {"id": WORKER, "time_ns": 900},  # before the execution: that pid was somebody else
    {"id": OTHER_WORKER, "time_ns": 2000},  # the later one
    {"id": SUPERVISOR, "time_ns": 2000},  # takes nobody along
])  # fmt: skip
def test_a_duplicate_is_not_explained_by_another_death(run, kill):
    jobs = [*(execution(i) for i in range(1, 11)), execution(5, pid=OTHER_WORKER, at=9000, flags=REDELIVERED)]

    assert check(run(jobs, kills=[{"kind": KILL, **kill}])).unexplained == 1


def test_a_retry_after_an_exception_is_no_duplicate(run):
    jobs = [execution(i) for i in range(1, 10)]
    jobs += [execution(10, flags=ledger.WILL_FAIL), execution(10, at=9000, attempt=2)]

    report = check(run(jobs))

    assert report.is_clean
    assert not report.duplicates


def test_a_job_that_only_failed_is_lost(run):
    assert check(run([execution(i, flags=ledger.WILL_FAIL * (i == 10)) for i in range(1, 11)])).lost == 1


def test_a_torn_last_record_is_legal_and_a_damaged_one_is_not(run):
    folder = run()
    book = folder / "worker.book"
    book.write_bytes(book.read_bytes() + b"torn")
    assert check(folder).is_clean
    assert check(folder).torn == 1

    data = bytearray(book.read_bytes())
    data[3 * RECORD.itemsize + 8] ^= 1
    book.write_bytes(data)
    report = check(folder)

    assert report.damaged == 1
    assert report.lost == 1, "a damaged record proves nothing"


def test_books_written_by_processes_are_read_back(tmp_path):
    producer = Book(tmp_path, "producer")
    producer.intent(1, b"abc", lane=2, seq=3)
    producer.accepted(1)
    child = os.fork()
    if not child:
        Book(tmp_path, "worker").executed(1, b"abc", lane=2, seq=3)
        os._exit(0)
    os.waitpid(child, 0)
    producer.kill(child)
    producer.close()

    report = check(tmp_path)

    assert report.is_clean
    assert (report.submitted, report.accepted, report.executed, report.kills) == (1, 1, 1, 1)


def test_planted_faults_are_found_among_many_in_bounded_memory(tmp_path):
    count, slice_records = 200_000, 1 << 16
    plant_many(tmp_path, count)

    tracemalloc.start()
    report = check(tmp_path, slice_records=slice_records)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert (report.lost, report.phantom, report.altered, report.unexplained) == (1, 1, 1, 1)
    assert report.duplicates == 2
    assert report.most_per_kill == 1
    assert peak_bytes < 10 * slice_records * RECORD.itemsize


def plant_many(folder, count):
    """A run of `count` jobs with one fault of each kind, and one duplicate that is explained."""
    ids = np.arange(1, count + 1, dtype=np.uint64)
    base = np.zeros(count, RECORD)
    base["id"], base["seq"], base["hash"], base["attempt"] = ids, ids, ids * np.uint64(3), 1
    books = {}
    kinds = (("intents", INTENT, PRODUCER), ("accepted", ACCEPTED, PRODUCER), ("worker", EXECUTED, WORKER))
    for name, kind, pid in kinds:
        books[name] = base.copy()
        books[name]["kind"], books[name]["pid"] = kind, pid
    worker = books["worker"]
    worker["time_ns"] = time.monotonic_ns()
    worker["hash"][10] += np.uint64(1)  # altered
    again = worker[[20, 30]].copy()  # duplicates: the second of them is explained
    again["pid"], again["flags"] = OTHER_WORKER, REDELIVERED
    again["time_ns"] += np.uint64(1000)
    worker["pid"][30] = OTHER_WORKER + 1
    phantom = worker[:1].copy()
    phantom["id"], phantom["flags"] = count + 7, REDELIVERED
    books["worker"] = np.concatenate([np.delete(worker, 40), again, phantom])  # 40: lost
    kill = np.zeros(1, RECORD)
    kill["kind"], kill["id"], kill["time_ns"] = KILL, OTHER_WORKER + 1, worker["time_ns"][0] + np.uint64(10)
    books["killer"] = kill
    for name, records in books.items():
        records["check"] = ledger._checks(records)
        (folder / f"{name}.book").write_bytes(records.tobytes())
