from __future__ import annotations

import pytest

from shmq.config.differ import differing_keys
from shmq.config.load import parse


@pytest.mark.parametrize(
    ("before", "after", "keys"),
    [
        ("", "", []),
        ("", 'tasks = ["a"]', ["tasks"]),
        ("[groups.a]\n", "[groups.a]\nretries = 2\n", ["groups.a.retries"]),
        ("[groups.a]\n", "[groups.a]\n[groups.b]\n", ["groups.b"]),
        ('[limits."a.*"]\nrate_per_s = 1', '[limits."a.*"]\nrate_per_s = 2', ['limits."a.*".rate_per_s']),
        ("[supervisor]\ntick_s = 0.2", "[memory]\nmax_workers = 99", ["memory.max_workers", "supervisor.tick_s"]),
    ],
)
def test_keys_that_differ_are_named_as_in_the_file(before, after, keys):
    assert differing_keys(parse(before), parse(after)) == keys
    assert differing_keys(parse(after), parse(before)) == keys
