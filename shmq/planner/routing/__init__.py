"""Tasks with `group = "auto"`: classified by what was measured of their jobs (pure), written for producers."""

from shmq.planner.routing.classes import CLASSES, LEAST_JOBS, Choice, Traits, choose, classify

__all__ = ["CLASSES", "LEAST_JOBS", "Choice", "Traits", "choose", "classify"]
