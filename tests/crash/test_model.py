"""The protocol, in every schedule of small scenes; and each mutant of it is caught.

Exhaustive where a scene says no bound, else with as many preemptions as it names; the command line
(`python -m tests.crash.model --exhaust`) searches all to the end, figures in model/README.md.
"""

from __future__ import annotations

import random

import pytest

from tests.crash.model.explore import Outcome, exhaust, judge, walk
from tests.crash.model.machine import ARM, PSO, TIMEOUT, X86, Machine
from tests.crash.model.mutants import MUTANTS, hunt
from tests.crash.model.scenes import SCENES, crowd


def _told(outcome) -> str:
    return "\n".join([outcome.violation, *outcome.trace])


@pytest.mark.parametrize("name", SCENES)
def test_every_schedule_of_the_scene_keeps_the_promises(name):
    scene = SCENES[name]

    outcome = exhaust(scene.machine(), scene.deaths, preemptions=scene.preemptions)

    assert not outcome.violation, _told(outcome)
    assert outcome.is_complete
    assert outcome.ends, "no schedule came to an end"


@pytest.mark.parametrize("name", ["handshake", "early", "ring on", "cancel", "stale entry", "blocks", "two views"])
def test_stores_that_overtake_each_other_do_no_harm(name):
    scene = SCENES[name]

    outcome = exhaust(scene.machine(kind=PSO), scene.deaths)

    assert not outcome.violation, _told(outcome)


@pytest.mark.parametrize("name", ["cancel", "abandoned", "stale entry", "blocks", "two views"])
def test_loads_of_old_values_do_no_harm(name):
    scene = SCENES[name]

    outcome = exhaust(scene.machine(kind=ARM), scene.deaths)

    assert not outcome.violation, _told(outcome)


def test_nearly_all_mutants_are_caught(capsys):
    missed = [mutant.name for mutant in MUTANTS if not hunt(mutant)[1].violation]

    caught = len(MUTANTS) - len(missed)
    with capsys.disabled():
        print(f"\n{caught} of {len(MUTANTS)} mutants of the protocol caught; missed: {', '.join(missed) or 'none'}")
    assert caught >= 0.95 * len(MUTANTS)


@pytest.mark.parametrize("collect", [False, True])
@pytest.mark.parametrize("kind", [X86, PSO, ARM])
def test_random_walks_through_the_crowd_keep_the_promises(kind, collect):
    scene = crowd(collect=collect)
    machine = scene.machine(kind=kind)

    for seed in range(16):
        outcome = walk(machine, scene.deaths, seed)
        assert not outcome.violation, f"seed {seed}: {_told(outcome)}"


def test_random_walks_notice_a_mutant():
    scene = crowd(collect=False)
    machine = scene.machine("leased_forgotten")

    assert any(walk(machine, scene.deaths, seed).violation for seed in range(60))


@pytest.mark.parametrize("name", ["takeover", "cancel", "death"])
def test_actors_as_automata_do_what_they_do_as_generators(name):
    scene = SCENES[name]
    generators, automata = scene.machine(exact=True), scene.machine()

    for seed in range(15):
        assert _schedule(generators, scene.deaths, seed) == _schedule(automata, scene.deaths, seed)


def _schedule(machine: Machine, deaths: dict[str, int], seed: int) -> list[object]:
    """One walk: what everybody wants and what memory holds, step by step."""
    dice, told = random.Random(seed), []
    state = machine.initial(deaths)[0]
    for _ in range(500):
        told.append((state[1:], [a.ops[at] for a, at in zip(machine.automata, state[0], strict=True)]))
        choices = machine.choices(state)
        if any(what != TIMEOUT for _, what in choices):
            ends, died = machine.take(state, dice.choice(choices))
            state = dice.choice(ends + died)
            continue
        later = judge(machine, state, Outcome())
        if later is None:
            break
        state = later
    return told


@pytest.mark.parametrize("name", ["takeover", "cancel", "handshake"])
def test_steps_taken_together_reach_the_same_ends(name):
    scene = SCENES[name]

    every = exhaust(scene.machine(reduce=False), scene.deaths)
    fewer = exhaust(scene.machine(), scene.deaths)

    assert fewer.end_memories == every.end_memories
    assert fewer.states < every.states
