"""See perf.scenarios."""
