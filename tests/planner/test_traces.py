"""The forecast on recorded loads, which are not shipped: SHMQ_TRACES names a folder of CSV files (a count per
line under a `# step_seconds: N` header). Without it there is nothing to test, so nothing is collected.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shmq.planner.backtest import HORIZONS, LEARNING_SHARE, read_series
from shmq.planner.forecast import Forecaster

FOLDER = os.environ.get("SHMQ_TRACES")
FILES = sorted(Path(FOLDER).glob("*.csv")) if FOLDER else []

if FILES:

    @pytest.mark.slow
    @pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
    def test_the_band_holds_nine_in_ten_of_recorded_loads(path):
        series = read_series(path)
        counts = series.counts.tolist()
        forecaster, inside = Forecaster(series.step_s), {h: [] for h in HORIZONS}
        for t, count in enumerate(counts):
            forecaster.update(count)
            if LEARNING_SHARE * len(counts) <= t < len(counts) - HORIZONS[-1]:
                _, low, high = forecaster.forecast(HORIZONS[-1])
                for h in HORIZONS:
                    inside[h].append(low[h - 1] <= counts[t + h] <= high[h - 1])
        for h in HORIZONS:
            assert 0.87 <= sum(inside[h]) / len(inside[h]) <= 0.93
