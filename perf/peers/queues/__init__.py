"""Bare queues: two of them make a pool of our own, without recovery, retries or limits."""
