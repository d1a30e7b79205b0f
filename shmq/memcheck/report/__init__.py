"""The report of a run: one HTML file without scripts, remade from the run's folder at any time."""

from shmq.memcheck.report.findings import Findings, by_kind, evaluate, terminal_table
from shmq.memcheck.report.page import REPORT, write_report

__all__ = ["REPORT", "Findings", "by_kind", "evaluate", "terminal_table", "write_report"]
