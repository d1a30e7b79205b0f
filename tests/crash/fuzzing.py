"""Random bytes into a busy segment, then everybody works on: worker, recovery, producer, snapshot, supervisor's eyes.

Wrong answers are allowed, the bytes are gone. Not allowed: a crash of the interpreter, a hang, a worker that
spins, an exception that would end a worker or recovery, and in a producer anything but a documented error.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from shmq.errors import ShmqError
from shmq.memory.layout import FIELD, LANE_WORDS, WORD
from tests.crash.stage.bench import Bench
from tests.crash.stage.stage import Stage
from tests.crash.stage.tasks import doubled, flaky, large

VICTIM, WORKER_ROW = 0, 3
FIELDS = (
    "payload", "payload", "words", "words", "heads", "tails", "rings", "results", "worker_rows", "producer_rows",
    "group_control", "group_claim", "group_plan", "tags", "pins", "cancels", "kills", "dues", "sleeping",
    "streams", "asks", "reads", "service_times", "worker_bells", "producer_bells", "blocks",
)  # fmt: skip
_LIMIT_BYTES = 3 << 30
_PATIENCE_S = 10
_CLAIMS = 400  # far more than there are entries: a lane that never empties would keep a worker busy for ever


@dataclass
class Finding:
    """What went wrong in which round, and what had been overwritten."""

    seed: int
    actor: str
    error: str
    damage: list[str]


def main(first: int, rounds: int) -> list[Finding]:
    """Fuzz rounds `first` to `first + rounds`; each is made from its seed alone."""
    stage = Stage(f"fuzz{os.environ.get('SHMQ_TEST_RUN', '')}-{os.getpid()}")
    signal.signal(signal.SIGALRM, _hangs)
    resource.setrlimit(resource.RLIMIT_AS, (_LIMIT_BYTES, _LIMIT_BYTES))
    findings: list[Finding] = []
    try:
        for seed in range(first, first + rounds):
            findings += one_round(stage, seed)
    finally:
        stage.drop()
        stage.close()
    return findings


def one_round(stage: Stage, seed: int) -> list[Finding]:
    """Arrange, damage, go on."""
    chance = random.Random(seed)
    stage.drop()
    stage.reset()
    client = stage.client()
    jobs = [stage.send(client, number) for number in range(4)]
    jobs += [stage.send(client, 4, flaky), stage.send(client, 5, large), stage.send(client, 6, doubled)]
    victim, bench = stage.bench(VICTIM), stage.bench(WORKER_ROW)
    slots, words = victim.claim(3)
    victim.executor.run(slots[0], words[0])
    stage.segment.view("words")[slots[1]] += 1 + 16  # RUNNING, crash paid
    stage.bury_row(VICTIM)
    damage = [_damage(stage, chance) for _ in range(chance.choice((1, 1, 2, 3, 8, 40)))]
    findings: list[Finding] = []

    def act(actor: str, action: Callable[[], object], *, allowed: tuple[type[BaseException], ...] = ()) -> None:
        signal.alarm(_PATIENCE_S)
        try:
            action()
        except allowed:
            pass
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            findings.append(Finding(seed, actor, "".join(traceback.format_exception(error)[-4:]), damage))
        finally:
            signal.alarm(0)

    act("recovery", partial(_recover, stage))
    act("worker", lambda: _work(bench))
    act("recovery", partial(_recover, stage))
    act("worker", lambda: _work(bench))
    documented = (ShmqError, TimeoutError, ValueError, BufferError)
    for job in jobs:
        act("producer reads", partial(job.result, 0), allowed=documented)
    act("producer submits", partial(stage.send, client, 7), allowed=documented)
    act("producer cancels", jobs[0].cancel, allowed=documented)
    act("snapshot", partial(_look, stage))
    act("producer leaves", client.close, allowed=documented)
    act("the next producer", partial(_register, stage), allowed=documented)
    for leaving in (victim, bench):
        leaving.bell.unlink()
        leaving.bell.close()
    return findings


def _damage(stage: Stage, chance: random.Random) -> str:
    """Overwrite one cell, or a few bytes of one field."""
    name = chance.choice(FIELDS)
    view = stage.segment.view(name)
    bits = {WORD: 64, "I": 32, "B": 8}[FIELD[name].code]
    at = chance.randrange(min(len(view), 16 * 256) if name == "payload" else len(view))
    if name in {"worker_rows", "service_times"} and at // (len(view) // stage.segment.shape.workers) == WORKER_ROW:
        return "nothing"  # what a live worker counts for itself: an overflow ends it and its row is cleared
    if name in {"heads", "tails"}:
        at = at // LANE_WORDS * LANE_WORDS + chance.randrange(5)
    if name in {"payload", "blocks", "worker_bells", "producer_bells"}:
        at = at // 256 * 256 + chance.randrange(64) if name == "payload" else at
        noise = chance.randbytes(min(chance.randrange(1, 60), len(view) - at))
        view[at : at + len(noise)] = noise
        return f"{name}[{at}:{at + len(noise)}] = {noise.hex()}"
    value = chance.choice((
        chance.getrandbits(bits), 0, 1, (1 << bits) - 1, 1 << bits - 1, view[at] ^ 1 << chance.randrange(bits),
        view[at] + 1, view[at] - 1,
    )) % (1 << bits)  # fmt: skip
    view[at] = value
    return f"{name}[{at}] = {value:#x}"


def _hangs(_signal: int, _frame: object) -> None:
    raise AssertionError(f"hangs for {_PATIENCE_S} s")


def _recover(stage: Stage) -> None:
    recovery = stage.fresh_recovery()
    for _ in range(3):
        recovery._next_tidy = 0.0
        recovery.step()
    recovery._redeliverer.deliver_due(1 << 62)


def _work(bench: Bench) -> None:
    for _ in range(_CLAIMS):
        lanes = bench.claimer.lanes_with_work()
        if not lanes or bench.claimer.is_paused():
            return
        if not bench.loop._run_batch(lanes):
            return
    raise AssertionError(f"the worker spins: lanes {bench.claimer.lanes_with_work()} never become empty")


def _register(stage: Stage) -> None:
    stage.client().close()


def _look(stage: Stage) -> None:
    from shmq.observe.snapshot import take

    take(stage.segment, take(stage.segment))


if __name__ == "__main__":
    found = main(int(sys.argv[1]), int(sys.argv[2]))
    for finding in found[:200]:
        print(f"seed {finding.seed}, {finding.actor}: {finding.error}after {finding.damage[:6]}\n")
    print(f"{sys.argv[2]} rounds, {len(found)} findings")
    sys.exit(bool(found))
