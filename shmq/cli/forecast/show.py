"""`shmq forecast show`: the planner's numbers for one group, step by step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click
import msgspec

from shmq.cli.options import attached, json_option, known_group, namespace_option
from shmq.cli.text import printable, seconds, table

if TYPE_CHECKING:
    from shmq.memory.segment import Segment

_FRESH_STEPS = 5
_LEAST_FRESH_S = 2.0


@click.command()
@namespace_option
@click.argument("group")
@click.option("--steps", type=click.IntRange(min=1), default=1, show_default=True, help="Follow so many steps.")
@json_option
def show(namespace: str, group: str, steps: int, as_json: bool) -> None:
    """Show the forecast of GROUP against what came, its running accuracy, and the reason for the workers."""
    known_group(namespace, group)
    with attached(namespace) as segment:
        seen: list[dict[str, Any]] = []
        while True:
            row = _read(segment, group)
            if not row["is_fresh"] or not seen or row["updated_ns"] != seen[-1]["updated_ns"]:
                seen.append(row)
                if as_json:
                    click.echo(msgspec.json.encode(row))
            if len(seen) >= steps or not row["is_fresh"]:
                break
            time.sleep(max(row["step_s"] / 4, 0.01))
    if not as_json:
        click.echo(_text(group, seen))


def _read(segment: Segment, group: str) -> dict[str, Any]:
    """The plan row, in the units of the command line."""
    from shmq.clock import NS, now_ns
    from shmq.memory.layout import GROUP_CONTROL, GROUP_PLAN

    index = segment.group_names().index(group)
    row = segment.rows("group_plan")[index]
    plan = {word: int(row[i]) for word, i in GROUP_PLAN.items()}
    step_s, age_s = plan["step"] / NS, (now_ns() - plan["updated_ns"]) / NS
    milli = {
        name: plan[f"{word}_milli"] / 1000
        for name, word in (
            ("came", "came"), ("expected", "expected"), ("mean", "mean"), ("low", "lo"), ("high", "hi"),
            ("arrivals_per_s", "arrivals"), ("accuracy", "accuracy"),
        )
    }  # fmt: skip
    return {
        "group": group,
        "updated_ns": plan["updated_ns"],
        "is_fresh": bool(plan["updated_ns"]) and age_s < max(_FRESH_STEPS * step_s, _LEAST_FRESH_S),
        "age_s": age_s if plan["updated_ns"] else None,
        "step_s": step_s,
        **milli,
        "service_s": plan["service_ns"] / NS,
        "need": plan["need"],
        "reactive_need": plan["reactive_need"],
        "target_workers": plan["target"],
        "workers": int(segment.rows("group_control")[index][GROUP_CONTROL["workers"]]),
        "batch": plan["batch"],
        "concurrency": plan["concurrency"],
        "reason": segment.text("group_reason", index),
    }


def _text(group: str, seen: list[dict[str, Any]]) -> str:
    last = seen[-1]
    if last["age_s"] is None:
        return f"{group}: the planner has not spoken yet"
    lines = []
    if not last["is_fresh"]:
        lines.append(f"{group}: no plan for {seconds(last['age_s'])}; the supervisor scales by its reactive rule")
    columns = (
        ("came", "came"), ("expected", "expected"), ("next", "mean"), ("from", "low"), ("to", "high"),
    )  # fmt: skip
    rows = [
        [
            *(f"{row[key]:.1f}" for _, key in columns),
            *(str(row[key]) for key in ("need", "reactive_need", "target_workers", "workers")),
        ]
        for row in seen
    ]
    head = [*(f">{title}" for title, _ in columns), ">need", ">reactive need", ">target", ">workers"]
    return "\n".join(
        [
            *lines,
            table(head, rows),
            "",
            f"arrivals per step of {seconds(last['step_s'])}; next: the step ahead that needs most, with its 90 % band",
            f"accuracy {last['accuracy']:.0%} one step ahead, over the last hundred steps",
            f"jobs take {seconds(last['service_s'] or None)}; batch {last['batch']}, concurrency {last['concurrency']}",
            printable(last["reason"]),
        ]
    )
