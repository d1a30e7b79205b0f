"""Ready-made tasks, one module per default resource group.

They use shmq's public API only, so they double as examples of how to write tasks of your own. Every task is a
typed function that also runs by a direct call, without a supervisor. Only what another attempt may change is
retried (the network's `OSError`s): a wrong argument stays wrong, a missing file stays missing.
"""
