"""numpy comes into a producer when a block or an array needs it, whatever else goes on at that moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BEGIN = """
import gc, os, shmq, signal, sys, threading, time
def echo(value): return shmq.submit('tests.client.declared.echo', value).result(30)
def large(): return len(echo('x' * 100_000))  # needs a block
def is_there(): return 'numpy' in sys.modules
"""


def lines_of(script: str, namespace: str) -> list[str]:
    """What a producer prints that has imported nothing but shmq."""
    run = subprocess.run(
        [sys.executable, "-c", BEGIN + script],
        env={**os.environ, "SHMQ_NAMESPACE": namespace, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_small_values_do_without(service):
    script = """
with shmq.connect() as client:  # takes a row over, as another producer has left it
    print(sum(echo(i) for i in range(3)), is_there())
shmq.close()
print('closed', is_there())
print(large(), is_there())
"""
    assert lines_of(script, service.namespace) == ["3 False", "closed False", "100000 True"]


def test_arrays_come_to_who_has_no_numpy(service):
    script = """
small, big = (shmq.submit('tests.client.declared.ones', n) for n in (10, 100_000))
print(is_there(), big.result(30).shape, small.result(30).shape, is_there())
"""
    assert lines_of(script, service.namespace) == ["False (100000,) (10,) True"]


def test_an_exception_of_a_handler_during_the_import_does_no_harm(service):
    script = """
class Late(Exception): pass
def handler(*_): raise Late
signal.signal(signal.SIGUSR1, handler)
class Finder:  # asked for each module that is imported; what interrupts this one, is for good
    def find_spec(self, name, *_):
        if name == 'numpy.exceptions':
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGUSR1)
sys.meta_path.insert(0, Finder())
try:
    large()
except Late:
    print('late')
print(large(), large())
"""
    assert lines_of(script, service.namespace) == ["late", "100000 100000"]


def test_a_fork_during_the_import_has_numpy(service):
    script = """
echo(1)
thread = threading.Thread(target=large)
thread.start()
while not is_there():
    time.sleep(0)
pid = os.fork()
if pid == 0:
    signal.alarm(20)  # ends a child that hangs
    print(large(), flush=True)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
thread.join()
"""
    assert lines_of(script, service.namespace) == ["100000", "0"]


def test_a_finalizer_during_the_import_holds_nobody_up(service):
    script = """
signal.alarm(60)  # ends a process that hangs
class Holder:
    def __init__(self): self.me = self  # garbage that only a collection finds
    def __del__(self):
        try: echo(1)
        except shmq.ShmqError as error: refused.append(type(error).__name__)
echo(1)
refused = []
gc.collect()  # the next one is that of the import
Holder()
print(large(), refused)
"""
    assert lines_of(script, service.namespace) == ["100000 ['ReentrantSubmit']"]
