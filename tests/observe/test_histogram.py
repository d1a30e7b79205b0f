from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.memory.layout import HISTOGRAM_BUCKETS
from shmq.observe.histogram import bucket_of, lower_ns, merge, quantiles_s, upper_ns

LAST = HISTOGRAM_BUCKETS - 1
durations = st.integers(min_value=0, max_value=(1 << 39) - 1)


@given(durations)
def test_a_duration_lies_within_its_bucket(ns):
    bucket = bucket_of(ns)
    assert lower_ns(bucket) <= ns < upper_ns(bucket)


@given(durations, durations)
def test_longer_durations_never_have_lower_buckets(one, other):
    short, long = sorted((one, other))
    assert bucket_of(short) <= bucket_of(long)


@given(st.integers(min_value=8, max_value=(1 << 39) - 1))
def test_a_bucket_is_at_most_a_quarter_of_its_durations_wide(ns):
    bucket = bucket_of(ns)
    assert upper_ns(bucket) - lower_ns(bucket) <= lower_ns(bucket) / 4


@given(st.integers(min_value=8, max_value=(1 << 39) - 1))
def test_the_formula_that_workers_inline_gives_the_same_bucket(ns):
    bits = ns.bit_length()
    assert bucket_of(ns) == (bits << 2) + ((ns >> (bits - 3)) & 3)


def test_durations_beyond_nine_minutes_go_to_the_last_bucket():
    assert bucket_of((1 << 39) - 1) == LAST
    assert bucket_of(1 << 39) == LAST
    assert bucket_of(1 << 60) == LAST


def test_used_buckets_join_without_gaps():
    used = [b for b in range(HISTOGRAM_BUCKETS) if lower_ns(b) < upper_ns(b)]
    assert used == [*range(8), *range(16, HISTOGRAM_BUCKETS)]
    assert all(upper_ns(a) == lower_ns(b) for a, b in itertools.pairwise(used))


@given(st.lists(st.integers(min_value=8, max_value=1 << 38), min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_is_within_a_quarter_of_the_exact_one(nanoseconds, share):
    counts = np.zeros(HISTOGRAM_BUCKETS)
    for ns in nanoseconds:
        counts[bucket_of(ns)] += 1
    exact = sorted(nanoseconds)[max(int(np.ceil(share * len(nanoseconds))) - 1, 0)] / 1e9
    (found,) = quantiles_s(counts, (share,))
    assert exact / 1.25 <= found <= exact * 1.25


def test_an_empty_histogram_has_no_quantiles():
    assert quantiles_s(np.zeros(HISTOGRAM_BUCKETS), (0.5,)) is None


def test_quantiles_of_one_bucket_lie_in_it():
    counts = np.zeros(HISTOGRAM_BUCKETS)
    counts[bucket_of(1_000_000)] = 10
    low, high = quantiles_s(counts, (0.0, 1.0))
    assert low == pytest.approx(lower_ns(bucket_of(1_000_000)) / 1e9)
    assert high == pytest.approx(upper_ns(bucket_of(1_000_000)) / 1e9)


def test_merging_adds_rows_and_drops_absurd_counts():
    rows = np.zeros((3, HISTOGRAM_BUCKETS), np.uint64)
    rows[0, 20], rows[1, 20], rows[2, 20] = 2, 3, 2**64 - 1
    assert merge(rows)[20] == 5
