"""Does it leak? `shmq soak`, `shmq leaks report`, `shmq leaks attach`."""
