"""Schedulers made for many machines, here on one."""
