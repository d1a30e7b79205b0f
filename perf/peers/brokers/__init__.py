"""Task queues over a broker: workers are started by each project's own command, Redis by `redis_server`."""
