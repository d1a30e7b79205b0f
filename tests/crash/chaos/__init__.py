"""Random SIGKILLs of everything under mixed load, and a ledger that tells afterwards what became of each job."""
