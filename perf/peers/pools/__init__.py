"""Pools of processes: what a program on one machine takes first."""
