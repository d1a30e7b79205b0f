"""A real segment of a few slots with real clients, workers and recovery on it, all called in one process.

No supervisor: the test plays its part. What shall be killed is forked off; whoever forked it goes on.
"""
