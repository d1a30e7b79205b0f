"""From the workers' sums to the groups that producers read, on a segment without processes."""

from __future__ import annotations

import pytest

import shmq
from shmq.memory.layout import MOST_ROUTED_TASKS, TASK_ROUTE, TASK_TRAITS, Shape
from shmq.memory.segment import create, segment_name, unlink
from shmq.planner.routing import LEAST_JOBS
from shmq.planner.routing.learner import Learner, traits_of
from shmq.tasks import registry
from shmq.tasks.task import Options, Task

GROUPS = ["filesystem", "network", "computation", "memory"]


def tasks_named(*names, group="auto"):
    tasks = [Task(lambda: None, Options(group=group), name) for name in names]
    return {task.key: task for task in tasks}


class Place:
    """A segment whose registry and workers' sums a test writes."""

    def __init__(self, segment, folder):
        self.segment, self.folder = segment, folder
        self.learner = Learner(segment, GROUPS)

    def publish(self, *names, **others):
        registry.publish(tasks_named(*names) | tasks_named(*others.get("declared", ()), group="network"), self.folder)
        self.segment.set_header("registry", self.segment.header("registry") + 1)

    def row(self, name):
        key = shmq.tasks.task.key_of(name)
        return next((at for at, row in enumerate(self.routes) if row[TASK_ROUTE["key"]] == key), None)

    @property
    def routes(self):
        return self.segment.rows("task_routes")

    def group(self, name):
        return GROUPS[self.routes[self.row(name)][TASK_ROUTE["group"]] - 1]

    def ran(self, name, count, worker=0, **each):
        """A worker has measured so many jobs more, each of which took this."""
        traits = self.segment.view("task_traits").cast("B").cast("Q", (4, MOST_ROUTED_TASKS, 8))
        at = self.row(name)
        traits[worker, at, TASK_TRAITS["key"]] = shmq.tasks.task.key_of(name)
        for word, value in ({"wall_ns": 10_000_000, "jobs": 1} | each).items():
            traits[worker, at, TASK_TRAITS[word]] += count * value

    @property
    def version(self):
        return self.segment.view("route_version")[0]


@pytest.fixture
def place(namespace, tmp_path):
    shape = Shape(
        groups=4, producers=2, slots_per_producer=16, slot_bytes=256, workers=4, units=4, unit_bytes=4096, arenas=1
    )
    name = segment_name(namespace)
    segment = create(name, shape, groups=GROUPS, state_dir=tmp_path, max_attempts=3)
    place = Place(segment, tmp_path)
    yield place
    del place.learner
    unlink(name)
    segment.close()


def test_only_automatic_tasks_have_a_row_and_begin_in_the_default_group(place):
    place.publish("jobs.spin", declared=["jobs.plain"])
    place.learner.step()
    assert place.group("jobs.spin") == "computation"
    assert place.row("jobs.plain") is None
    assert place.version == 1


def test_what_workers_measured_together_decides_and_producers_are_told_once(place):
    place.publish("jobs.spin", "jobs.nap")
    place.learner.step()
    before = place.version
    for worker in (0, 3):
        place.ran("jobs.nap", LEAST_JOBS // 2, worker, cpu_ns=100_000)
        place.ran("jobs.spin", LEAST_JOBS // 2, worker, cpu_ns=9_900_000)
    place.learner.step()
    assert (place.group("jobs.nap"), place.group("jobs.spin")) == ("network", "computation")
    assert place.version == before + 1  # nap moved, spin stayed
    place.ran("jobs.nap", 5, cpu_ns=100_000)
    place.learner.step()
    assert place.version == before + 1
    assert traits_of(place.routes[place.row("jobs.nap")]).jobs == LEAST_JOBS + 5


def test_a_planner_that_starts_anew_counts_nothing_twice_and_forgets_nothing(place):
    place.publish("jobs.nap")
    place.learner.step()
    place.ran("jobs.nap", 30, cpu_ns=100_000)
    place.learner.step()
    again = Learner(place.segment, GROUPS)
    again.step()
    assert place.group("jobs.nap") == "network"
    assert traits_of(place.routes[place.row("jobs.nap")]).jobs == 30
    place.ran("jobs.nap", 1, cpu_ns=100_000)
    again.step()
    assert traits_of(place.routes[place.row("jobs.nap")]).jobs == 31
    del again


def test_sums_without_the_job_that_ends_them_wait(place):
    place.publish("jobs.nap")
    place.learner.step()
    place.ran("jobs.nap", 1, jobs=0, cpu_ns=9_000_000)  # the worker is still writing
    place.learner.step()
    assert traits_of(place.routes[place.row("jobs.nap")]).jobs == 0
    place.ran("jobs.nap", 1, wall_ns=0)
    place.learner.step()
    assert traits_of(place.routes[place.row("jobs.nap")]).cpu_s == pytest.approx(0.009)


def test_a_registry_that_cannot_be_read_leaves_all_as_it_is(place, caplog):
    place.publish("jobs.nap")
    place.learner.step()
    (place.folder / registry.FILE).write_bytes(b"\xff[")
    place.segment.set_header("registry", place.segment.header("registry") + 1)
    place.ran("jobs.nap", LEAST_JOBS, cpu_ns=100_000)
    place.learner.step()
    assert place.group("jobs.nap") == "network"
    assert "`shmq reload` writes it anew" in caplog.text


def test_a_task_that_is_gone_leaves_its_row_to_the_next(place):
    place.publish("jobs.old")
    place.learner.step()
    place.ran("jobs.old", 30, cpu_ns=100_000)
    place.learner.step()
    place.publish("jobs.new")
    place.learner.step()
    assert place.row("jobs.old") is None
    assert place.group("jobs.new") == "computation"
    assert traits_of(place.routes[place.row("jobs.new")]).jobs == 0


def test_more_tasks_than_rows_are_told_and_the_rest_stays_where_it_is(place, caplog):
    names = [f"jobs.t{i:02}" for i in range(MOST_ROUTED_TASKS + 2)]
    place.publish(*names)
    with caplog.at_level("WARNING"):
        place.learner.step()
    assert sum(place.row(name) is not None for name in names) == MOST_ROUTED_TASKS
    assert "jobs.t32, jobs.t33 stay in the default group" in caplog.text
