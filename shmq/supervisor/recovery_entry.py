"""How the supervisor starts recovery without importing what recovery needs (numpy)."""

from __future__ import annotations

from collections.abc import Callable

from shmq.config.model import Config


def run_recovery(segment_name: str, config: Config) -> Callable[[], None]:
    """The main function of the recovery helper."""

    def main() -> None:
        from shmq.supervisor.recovery import Recovery

        Recovery(segment_name, config).run()

    return main
