"""What a configuration text becomes, or which sentences it earns."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.config.describe import rows
from shmq.config.load import parse
from shmq.config.model import Config, Group, default_groups
from shmq.errors import ConfigError

MODULE = 'the dotted name of a module, such as "workers.network"'
WORDS = ("namespace", "tasks", "groups", "memory", "routes", "limits", "task", "group", "network", "arenas")


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value.problems


def only_problem_of(text: str) -> str:
    problems = problems_of(text)
    assert len(problems) == 1, problems
    return problems[0]


class TestDefaults:
    def test_an_empty_text_is_a_usable_configuration(self):
        assert parse("") == Config()

    def test_three_lines_are_enough(self):
        config = parse('namespace = "photos"\ntasks = ["photos.tasks"]\n[groups.resize]\n')
        assert config.namespace == "photos"
        assert config.tasks == ("photos.tasks",)
        assert config.groups == {"resize": Group()}

    def test_without_groups_there_are_the_four_of_the_ready_made_tasks(self):
        assert list(parse("").groups) == ["filesystem", "network", "computation", "memory"]

    def test_groups_of_the_file_replace_the_default_groups(self):
        assert list(parse("[groups.computation]").groups) == ["computation"]

    def test_filesystem_and_network_wait_and_other_groups_compute(self):
        kinds = {name: group.kind for name, group in default_groups().items()}
        assert kinds == {"filesystem": "io", "network": "io", "computation": "cpu", "memory": "cpu"}
        assert parse("[groups.network]").groups["network"].kind == "io"
        assert parse("[groups.mail]").groups["mail"].kind == "cpu"

    def test_a_kind_in_the_file_beats_the_name(self):
        assert parse('[groups.network]\nkind = "cpu"').groups["network"].kind == "cpu"

    def test_groups_escalate_to_the_memory_group_where_there_is_one(self):
        groups = parse("[groups.a]\n[groups.memory]").groups
        assert (groups["a"].escalate_to, groups["memory"].escalate_to) == ("memory", None)
        assert parse("[groups.a]").groups["a"].escalate_to is None

    def test_an_empty_escalate_to_turns_escalation_off(self):
        assert parse('[groups.a]\nescalate_to = ""\n[groups.memory]').groups["a"].escalate_to is None

    def test_auto_stays_a_word_until_the_supervisor_resolves_it(self):
        group = parse('[groups.a]\nconcurrency = "auto"').groups["a"]
        assert (group.max_workers, group.concurrency) == ("auto", "auto")

    def test_whole_seconds_become_floats(self):
        timeout_s = parse("[groups.a]\ntimeout_s = 5").groups["a"].timeout_s
        assert isinstance(timeout_s, float)
        assert timeout_s == 5.0

    def test_values_never_change_after_loading(self):
        with pytest.raises(AttributeError):
            parse("").memory.slot_bytes = 1024  # type: ignore[misc]

    def test_routes_keep_their_order_and_limits_their_task(self):
        config = parse(
            '[[routes]]\ntask = "img.*"\nmin_payload_bytes = 1000\ngroup = "memory"\n'
            '[[routes]]\ntask = "*"\ngroup = "network"\n'
            '[limits."img.resize"]\nrate_per_s = 5\nbreaker_mode = "fail"\n'
        )
        assert [(route.task, route.group, route.min_payload_bytes) for route in config.routes] == [
            ("img.*", "memory", 1000),
            ("*", "network", 0),
        ]
        assert config.limits["img.resize"].rate_per_s == 5.0
        assert config.limits["img.resize"].breaker_mode == "fail"


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("namespce = 'a'", "unknown key namespce; did you mean namespace?"),
            ("[groups.a]\ntimeout = 3", "unknown key groups.a.timeout; did you mean timeout_s?"),
            ("[group.a]", "unknown key group; did you mean groups?"),
            ("max_producers = 3", "unknown key max_producers; it belongs to memory.max_producers"),
            (
                "[dead_letters]\nzzz = 3",
                "unknown key dead_letters.zzz; known are: keep_count, keep_s",
            ),
            ('[limits."a.b"]\nrate = 3', 'unknown key limits."a.b".rate; did you mean rate_per_s?'),
        ],
    )
    def test_an_unknown_key_is_refused_with_a_hint(self, text, sentence):
        assert only_problem_of(text) == sentence


class TestBadValues:
    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            (
                '[groups.a]\nmax_workers = "many"',
                'expected groups.a.max_workers to be an integer from 1 to 1000 or "auto", got "many"',
            ),
            (
                "[groups.a]\nmin_workers = -1",
                "expected groups.a.min_workers to be an integer from 0 to 1000, got -1",
            ),
            (
                "[groups.a]\nimportance = 6",
                "expected groups.a.importance to be an integer from 1 to 5, got 6",
            ),
            (
                "[groups.a]\nmiss_ratio = 1.0",
                "expected groups.a.miss_ratio to be a number above 0, below 1, got 1.0",
            ),
            ('[groups.a]\ngc = "never"', 'expected groups.a.gc to be "batch", "auto" or "off", got "never"'),
            (
                "[groups.a]\nmax_batch = true",
                "expected groups.a.max_batch to be an integer from 1 to 1024, got true",
            ),
            (
                "[memory]\nslot_bytes = 500",
                "expected memory.slot_bytes to be an integer from 256 to 65536, a multiple of 64, got 500",
            ),
            (
                "[memory]\nslots_per_producer = 1000",
                "expected memory.slots_per_producer to be a power of two, got 1000; nearest are 512 and 1024",
            ),
            (
                "[memory]\nmax_producers = 257",
                "expected memory.max_producers to be an integer from 1 to 256, got 257",
            ),
            ('[memory]\narenas = "2"', 'expected memory.arenas to be an integer from 1 to 8, got "2"'),
            ("memory = 5", "expected memory to be a table, got 5"),
            ("groups = []", "expected groups to be a table, got a list"),
            (
                "tasks = 'a.b'",
                f'expected tasks to be a list, each item {MODULE}, got "a.b"',
            ),
            (
                "tasks = ['a', 'b/c.py']",
                f'expected tasks[1] to be {MODULE}, got "b/c.py"',
            ),
            ("tasks = ['a', 'a']", 'expected tasks to name each module once, got "a" 2 times'),
            (
                '[supervisor]\nstate_dir = "a\\u0000b"',
                'expected supervisor.state_dir to be a path, got "a\0b"',
            ),
        ],
    )
    def test_a_bad_value_is_named_with_what_was_expected(self, text, sentence):
        assert only_problem_of(text) == sentence

    @pytest.mark.parametrize("number", ["nan", "inf", "-inf", "0", "-1", "1e10"])
    def test_seconds_are_positive_and_finite(self, number):
        assert only_problem_of(f"[groups.a]\ntarget_wait_s = {number}").startswith(
            "expected groups.a.target_wait_s to be a number above 0"
        )

    @pytest.mark.parametrize("row", [row for row in rows() if "number" in row.expected], ids=lambda row: row.key)
    @pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
    def test_every_number_is_finite(self, row, number):
        table, _, key = row.key.rpartition(".")
        assert f"{key} to be a number" in problems_of(f"[{table}]\n{key} = {number}")[0]

    @pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "ä", "a" * 65, "a\\n"])
    def test_names_of_groups_and_namespaces_are_plain_and_short(self, name):
        assert only_problem_of(f'namespace = "{name}"').startswith("expected namespace to be a name of 1 to 64")
        assert only_problem_of(f'[groups."{name}"]').startswith("expected the name of groups.")

    def test_a_name_may_have_64_characters_of_any_allowed_kind(self):
        name = "9" + "a.B_-" * 12 + "abc"
        assert len(name) == 64
        assert parse(f'namespace = "{name}"\n[groups."{name}"]').namespace == name

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("a =", "is not TOML"),
            ("[groups.a]\n[groups.a]", "is not TOML"),
            ("x = " + "[" * 100_000, "is not TOML"),
            ("x = " + "1" * 10_000, "is not TOML"),
        ],
    )
    def test_a_text_that_is_not_toml_is_refused_with_the_reason(self, text, reason):
        assert only_problem_of(text).startswith(reason)


class TestAcrossKeys:
    def test_min_workers_above_max_workers_is_refused(self):
        assert only_problem_of("[groups.a]\nmin_workers = 3\nmax_workers = 2") == (
            "expected groups.a.min_workers to be at most max_workers (2), got 3"
        )

    def test_groups_that_ask_for_more_workers_than_rows_are_refused(self):
        sentence = only_problem_of(
            "[memory]\nmax_workers = 5\n[groups.a]\nmax_workers = 4\n[groups.b]\nmin_workers = 2"
        )
        assert sentence.startswith("expected memory.max_workers to be at least 6")

    @pytest.mark.parametrize("target", ["netork", "a"])
    def test_escalation_goes_to_another_group_of_the_file(self, target):
        sentence = only_problem_of(f'[groups.a]\nescalate_to = "{target}"\n[groups.network]')
        assert sentence.startswith("expected groups.a.escalate_to to be")

    def test_a_route_to_an_unknown_group_names_the_nearest(self):
        assert only_problem_of('[[routes]]\ntask = "a"\ngroup = "netwrk"') == (
            'expected routes[0].group to be a group of this file, got "netwrk"; did you mean network?'
        )

    def test_a_route_without_its_keys_names_all_that_are_missing(self):
        assert len(problems_of("[[routes]]\nmin_payload_bytes = 3")) == 2

    def test_the_block_budget_holds_a_unit_per_arena(self):
        text = "[memory]\nblock_budget_bytes = 65536\nblock_unit_bytes = 65536\narenas = 2"
        assert only_problem_of(text).startswith("expected memory.block_budget_bytes to be at least 131072")

    def test_a_soft_memory_limit_above_the_hard_one_is_refused(self):
        text = "[groups.a]\nmax_worker_memory_bytes = 2000\nhard_worker_memory_bytes = 1000"
        assert only_problem_of(text).startswith("expected groups.a.max_worker_memory_bytes to be at most")

    def test_a_burst_needs_a_rate(self):
        assert only_problem_of("[groups.a]\nburst = 5").startswith("expected groups.a.rate_per_s beside burst")
        assert only_problem_of('[limits."a.b"]\nburst = 5').startswith('expected limits."a.b".rate_per_s')

    @pytest.mark.parametrize("count", [0, 65])
    def test_there_are_1_to_64_groups(self, count):
        text = "[memory]\nmax_workers = 1000\n[groups]\n" + "".join(f"[groups.g{i}]\n" for i in range(count))
        assert only_problem_of(text).startswith("expected groups to hold 1 to 64 tables")


def test_all_problems_are_reported_at_once():
    problems = problems_of(
        """
        namespace = "-"
        tasks = ["a b"]
        colour = "red"
        [memory]
        max_producers = 0
        slots_per_producer = 17
        [groups.a]
        min_workers = 3
        max_workers = 2
        hold_s = "long"
        [[routes]]
        task = "x"
        group = "b"
        """
    )
    assert len(problems) == 8, problems


def plain_values():
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    return st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | tables(inner), max_leaves=8)


def tables(values):
    keys = st.sampled_from(WORDS)
    return st.dictionaries(keys | st.text(max_size=4), values, max_size=4)


@given(tables(plain_values()))
def test_any_toml_gives_a_configuration_or_problems(monkeypatch_loads, table):
    monkeypatch_loads(table)
    try:
        config = parse("whatever")
    except ConfigError as error:
        problems = error.problems
    else:
        problems = ["none"]
        assert msgspec.convert(msgspec.to_builtins(config), Config) == config
    assert problems
    assert all(isinstance(problem, str) for problem in problems)


@pytest.fixture(scope="module")
def monkeypatch_loads():
    """Puts a table in the place of what the TOML parser would give."""
    with pytest.MonkeyPatch.context() as patch:
        yield lambda table: patch.setattr("shmq.config.load.tomllib.loads", lambda _text: table)
