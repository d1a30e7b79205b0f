from __future__ import annotations

import pytest

from shmq.config.model import Route
from shmq.planner.routing import LEAST_JOBS, Traits, choose, classify
from shmq.planner.routing.classes import MIB
from shmq.tasks.registry import rules_of

GROUPS = {"filesystem", "network", "computation", "memory"}


def measured(jobs=50, **job):
    traits = Traits()
    for _ in range(jobs):
        traits.observe(**{"wall_s": 0.1, "cpu_s": 0.0} | job)
    return traits


@pytest.mark.parametrize(
    ("job", "group", "words"),
    [
        ({"cpu_s": 0.09}, "computation", "on a core for 90% of 0.1 s"),
        ({"cpu_s": 0.01}, "network", "waits 90% of 0.1 s, hardly any storage"),
        ({"cpu_s": 0.01, "storage_bytes": MIB}, "filesystem", "1024 KiB of storage"),
        ({"cpu_s": 0.09, "memory_growth_bytes": 200 * MIB}, "memory", "memory growth of 200 MiB"),
        ({"payload_bytes": 80 * MIB}, "memory", "payload of 80 MiB"),
    ],
)
def test_the_class_follows_from_the_measurements_and_says_so(job, group, words):
    choice = choose(measured(**job), GROUPS)
    assert choice.group == group
    assert words in choice.evidence
    assert "mean of 50 jobs" in choice.evidence


def test_the_rules_of_a_task_end_with_the_first_that_takes_all_its_jobs():
    routes = [
        Route(task="img.*", group="memory", min_payload_bytes=1000),
        Route(task="mail.*", group="network"),
        Route(task="img.*", group="computation"),
        Route(task="*", group="filesystem"),
    ]
    assert [(rule.number, rule.group) for rule in rules_of("img.resize", routes)] == [(0, "memory"), (2, "computation")]
    assert [(rule.number, rule.group) for rule in rules_of("mail.send", routes)] == [(1, "network")]
    assert rules_of("mail.send", routes[:1]) == ()


def test_too_few_jobs_prove_nothing():
    choice = choose(measured(LEAST_JOBS - 1), GROUPS)
    assert choice.group == "computation"
    assert f"{LEAST_JOBS - 1} of {LEAST_JOBS} jobs" in choice.evidence
    assert choose(Traits(), {"network", "memory"}).group == "memory"


def test_means_of_many_jobs_count_as_much_as_the_jobs_one_by_one():
    one_by_one, together = Traits(), Traits()
    for cpu_s in (0.1, 0.2, 0.3, 0.4):
        one_by_one.observe(wall_s=1.0, cpu_s=cpu_s)
    together.observe(wall_s=1.0, cpu_s=0.25, jobs=4)
    assert (together.jobs, together.wall_s, together.cpu_s) == (4, 1.0, 0.25)
    assert one_by_one.cpu_s == pytest.approx(together.cpu_s)
    together.observe(wall_s=1.0, cpu_s=0.9, jobs=1000)
    assert together.cpu_s == 0.9


def test_jobs_near_a_threshold_do_not_wander():
    traits = measured(cpu_s=0.052)
    groups = set()
    for cpu_s in ([0.045] * 300 + [0.053] * 300) * 2:  # the mean crosses one half each time
        traits.observe(wall_s=0.1, cpu_s=cpu_s)
        groups.add(classify(traits).group)
    assert groups == {"computation"}


def test_a_task_that_changes_its_character_changes_its_class():
    traits = measured(cpu_s=0.09)
    assert classify(traits).group == "computation"
    for _ in range(500):
        traits.observe(wall_s=0.1, cpu_s=0.01)
    assert classify(traits).group == "network"


def test_a_group_that_does_not_exist_is_replaced_by_its_like():
    choice = choose(measured(cpu_s=0.0), {"filesystem", "computation"})
    assert choice.group == "filesystem"
    assert "no group 'network'" in choice.evidence
    assert choose(measured(cpu_s=0.1), {"only"}).group == "only"
