"""Every plant through a real supervisor at once: found, named with file:line and task; the harmless are left alone."""

from __future__ import annotations

import pytest

from tests.memcheck.planted.run import HARMLESS, LEAKING, read, run, table


@pytest.mark.slow
def test_every_planted_leak_is_found_and_named_and_nothing_else(tmp_path):
    found, said = run(tmp_path, minutes=1.0, per_s=1_000)
    assert found, said
    wrong = [row for row in found if not row.is_right and row.task != "grow_little"]  # that one takes a minute
    assert not wrong, "\n".join(table(found))


def test_the_table_tells_missed_and_false_ones():
    empty = read({"verdicts": [], "tasks": []})
    assert [row.task for row in empty if row.is_right] == list(HARMLESS)
    kinds = [(kind, quantity) for _, kind, quantity in {**LEAKING, **HARMLESS}.values()]
    called = read({"verdicts": [{"kind": k, "quantity": q, "answer": "leak"} for k, q in kinds], "tasks": []})
    assert not any(row.is_right for row in called)  # leaks without a line, and harmless ones called leaks
    assert all(line.endswith("WRONG") for line in table(called)[1:])
