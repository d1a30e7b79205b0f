"""python -m tests.crash.bytecode [--only WORDS] [--every N]: points of each step; exit code 1: a promise was broken."""

from __future__ import annotations

import argparse
import sys

from tests.crash.bytecode.run import Count, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.bytecode")
    parser.add_argument("--only", default="", help="steps whose name begins with this")
    parser.add_argument(
        "--every", type=int, default=1, help="1: every opcode; N: each N-th, and all after a change of shared memory"
    )
    parser.add_argument("--shard", default="0/1", help="part/parts of the steps")
    options = parser.parse_args()
    part, parts = (int(number) for number in options.shard.split("/"))
    print(f"{'step':<42}{'opcodes':>9}{'killed':>9}{'broken':>8}{'seconds':>9}")
    counts = run(
        options.only, every=options.every, shard=(part, parts), report=lambda count: print(line(count), flush=True)
    )
    print(total(counts))
    return int(any(c.broken or (options.every == 1 and c.visited != c.points) for c in counts))


def line(count: Count) -> str:
    """One step."""
    text = f"{count.step.name:<42}{count.points:>9}{count.visited:>9}{len(count.broken):>8}{count.elapsed_s:>9.1f}"
    return "\n    ".join([text, *count.broken])


def total(counts: list[Count]) -> str:
    """All steps."""
    points, killed = sum(c.points for c in counts), sum(c.visited for c in counts)
    inside = sum(c.visited for c in counts if c.step.is_inside_recovery)
    return (
        f"{'all ' + str(len(counts)) + ' steps':<42}{points:>9}{killed:>9}{sum(len(c.broken) for c in counts):>8}"
        f"{sum(c.elapsed_s for c in counts):>9.1f}\n{killed} kills: {killed - inside} alone, "
        f"{inside} inside a recovery that follows another kill; {100 * killed / max(points, 1):.1f} % of all opcodes"
    )


if __name__ == "__main__":
    sys.exit(main())
