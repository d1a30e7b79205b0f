"""`python -m tests.crash.model`: random walks by the million, full searches, all mutants.

    --seeds N             N random walks of the large scene (a million each night)
    --exhaust [SCENE …]   every schedule of the scenes, without a bound; all of them if none is named
    --mutants             which scene notices each mutant, and after how many states

Exit code 1 when something was wrong; its schedule is printed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.crash.model.explore import Outcome, exhaust, walk
from tests.crash.model.machine import ARM, PSO, X86
from tests.crash.model.mutants import MUTANTS, hunt
from tests.crash.model.scenes import SCENES, crowd


def main() -> int:
    options = _parser().parse_args()
    bad = 0
    if options.exhaust is not None:
        bad += _exhaust(options.exhaust or list(SCENES), options.kind)
    if options.mutants:
        bad += _mutants()
    if options.seeds:
        bad += _walks(options.seeds, options.first_seed, options.kind)
    return min(bad, 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.model", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--seeds", type=int, default=int(os.environ.get("SHMQ_MODEL_SEEDS", "0")))
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--kind", choices=(X86, PSO, ARM), default=X86, help="of machine")
    parser.add_argument("--exhaust", nargs="*", choices=[*SCENES, []], metavar="SCENE")
    parser.add_argument("--mutants", action="store_true")
    return parser


def _exhaust(names: list[str], kind: str) -> int:
    bad = 0
    for name in names:
        scene, start = SCENES[name], time.perf_counter()
        outcome = exhaust(scene.machine(kind=kind), scene.deaths)
        print(f"{name:20} {outcome.states:>9} states {outcome.moves:>9} moves {outcome.ends:>5} ends "
              f"{time.perf_counter() - start:7.1f} s  {outcome.violation or 'holds'}", flush=True)  # fmt: skip
        bad += _report(outcome)
    return bad


def _mutants() -> int:
    caught = 0
    for mutant in MUTANTS:
        scene, outcome = hunt(mutant)
        caught += bool(outcome.violation)
        verdict = outcome.violation or "NOT CAUGHT"
        print(f"{mutant.name:26} {scene:20} {outcome.states:>7} states  {verdict}", flush=True)
    print(f"{caught} of {len(MUTANTS)} mutants caught")
    return len(MUTANTS) - caught


def _walks(count: int, first: int, kind: str) -> int:
    bad = moves = rescues = 0
    start = time.perf_counter()
    machines = [(scene.machine(kind=kind), scene.deaths) for scene in (crowd(collect=False), crowd(collect=True))]
    for seed in range(first, first + count):
        machine, deaths = machines[seed % len(machines)]
        outcome = walk(machine, deaths, seed)
        moves += outcome.moves
        rescues += outcome.rescues
        if outcome.violation:
            print(f"seed {seed}: {outcome.violation}")
            bad += _report(outcome)
    print(f"{count} walks on {kind}, {moves} moves, {bad} violations, {rescues} bounded sleeps needed after a death, "
          f"{time.perf_counter() - start:.0f} s")  # fmt: skip
    return bad


def _report(outcome: Outcome) -> int:
    for line in outcome.trace if outcome.violation else ():
        print("   ", line)
    return bool(outcome.violation)


if __name__ == "__main__":
    sys.exit(main())
