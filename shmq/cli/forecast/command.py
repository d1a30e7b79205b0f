"""`shmq forecast`: what the planner expects, and what it would have done on recorded counts."""

from __future__ import annotations

import click

from shmq.cli.forecast.backtest import backtest
from shmq.cli.forecast.show import show


@click.group()
def forecast() -> None:
    """Compare forecast and load; try the scaling on recorded counts."""


forecast.add_command(show)
forecast.add_command(backtest)
