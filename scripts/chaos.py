"""What `scripts/chaos` runs: random SIGKILLs under mixed load, judged by ledgers (tests/crash/chaos)."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from tests.crash.chaos.run import Plan, describe, run

CI = Plan(workers=500, producers=500, supervisors=50, seconds=75.0)
FULL = Plan(workers=10_000, producers=10_000, supervisors=1_000, seconds=1200.0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--worker-kills", type=int, default=CI.workers)
    parser.add_argument("--producer-kills", type=int, default=CI.producers)
    parser.add_argument("--supervisor-kills", type=int, default=CI.supervisors)
    parser.add_argument("--seconds", type=float, default=None, help="how long to spread the kills over")
    parser.add_argument("--producers", type=int, default=None, help="producers that are alive at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="10,000 workers, 10,000 producers, 1,000 supervisors")
    options = parser.parse_args()
    plan = FULL if options.full else Plan(
        options.worker_kills, options.producer_kills, options.supervisor_kills,
        max(1.2 * options.supervisor_kills, 0.07 * (options.worker_kills + options.producer_kills), 2.0),
    )  # fmt: skip
    plan = replace(plan, seed=options.seed, seconds=options.seconds or plan.seconds)
    if options.producers:
        plan = replace(plan, alive_producers=options.producers)
    outcome = run(plan, report=lambda line: print(line, file=sys.stderr, flush=True))
    print(describe(plan, outcome))
    return int(not outcome.is_clean())


if __name__ == "__main__":
    sys.exit(main())
