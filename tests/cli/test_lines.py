from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.cli.jobs.lines import Line, Lines
from shmq.cli.jobs.sink import Sink
from tests.live import until


@pytest.fixture
def pipe():
    ends = list(os.pipe())
    yield ends
    for end in ends:
        if end is not None:
            os.close(end)


def close(pipe, end: int) -> None:
    os.close(pipe[end])
    pipe[end] = None


def all_of(lines: Lines) -> list[bytes]:
    found = []
    while not lines.is_at_end:
        lines.wait(10)
        while (line := lines.take()) is not None:
            assert line.number == len(found) + 1
            found.append(line.text)
    return found


def test_lines_are_numbered_from_one_and_have_no_end(pipe):
    os.write(pipe[1], b"a\nb c\r\n\n")
    lines = Lines(pipe[0])
    assert [lines.take(), lines.take(), lines.take()] == [Line(1, b"a"), Line(2, b"b c\r"), Line(3, b"")]


def test_nothing_at_hand_is_told_without_waiting(pipe):
    lines = Lines(pipe[0])
    assert lines.take() is None
    assert not lines.is_at_end
    os.write(pipe[1], b"half")
    assert lines.take() is None
    os.write(pipe[1], b" whole\nnext")
    assert lines.take() == Line(1, b"half whole")
    assert lines.take() is None


def test_the_last_line_needs_no_end(pipe):
    os.write(pipe[1], b"a\nb")
    close(pipe, 1)
    assert all_of(Lines(pipe[0])) == [b"a", b"b"]


def test_an_empty_input_has_no_line(pipe):
    close(pipe, 1)
    lines = Lines(pipe[0])
    assert lines.take() is None
    assert lines.is_at_end
    assert lines.expected() == 0


def test_lines_may_end_with_nul(pipe):
    os.write(pipe[1], b"a\nb\0c\0")
    close(pipe, 1)
    assert all_of(Lines(pipe[0], b"\0")) == [b"a\nb", b"c"]


@given(data=st.binary(max_size=300).filter(lambda data: b"\r" not in data), chunk=st.integers(1, 50))
def test_however_the_bytes_come_the_lines_are_the_same(data, chunk):
    reader, writer = os.pipe()
    lines, found = Lines(reader), []
    for at in range(0, len(data), chunk):
        os.write(writer, data[at : at + chunk])
        while (line := lines.take()) is not None:
            found.append(line.text)
    os.close(writer)
    found += [line.text for line in iter(lines.take, None)]
    os.close(reader)
    expected = data.split(b"\n")
    assert found == (expected if expected[-1] else expected[:-1])


def test_a_line_of_megabytes_is_one_line(pipe):
    text = b"x" * 3_000_000
    writer = threading.Thread(target=lambda: os.write(pipe[1], text + b"\nend\n"))
    writer.start()
    lines = Lines(pipe[0])
    until(lambda: lines.wait(0) and (line := lines.take()) and line.text == text, "the line comes whole")
    writer.join()


def test_the_length_of_a_file_tells_how_many_lines_to_expect(tmp_path):
    path = tmp_path / "input"
    path.write_bytes(b"12345678\n" * 100_000)
    with path.open("rb") as file:
        lines = Lines(file.fileno())
        assert lines.expected() is None
        lines.take()
        assert lines.expected() == pytest.approx(100_000, rel=0.01)


# -- output ------------------------------------------------------------------------------


def test_lines_appear_although_no_further_line_comes(pipe):
    os.set_blocking(pipe[0], False)
    with Sink(pipe[1]) as sink:
        sink.write(b"alone")
        seen = bytearray()

        def read() -> bool:
            try:
                seen.extend(os.read(pipe[0], 100))
            except BlockingIOError:
                return False
            return bool(seen)

        until(read, "the line is written")
    assert seen == b"alone\n"


def test_all_lines_come_in_order(pipe):
    with Sink(pipe[1]) as sink:
        received = bytearray()

        def read() -> None:
            while data := os.read(pipe[0], 65536):
                received.extend(data)

        reader = threading.Thread(target=read)
        reader.start()
        for i in range(50_000):
            sink.write(b"%d" % i)
    close(pipe, 1)
    reader.join()
    assert received.split() == [b"%d" % i for i in range(50_000)]


def test_a_closed_pipe_is_told_by_a_later_write(pipe):
    close(pipe, 0)
    with pytest.raises(BrokenPipeError), Sink(pipe[1]) as sink:
        sink.write(b"x" * 100_000)
        until(lambda: sink.write(b"y"), "never")


def test_a_closed_pipe_is_told_at_the_end_if_not_before(pipe):
    close(pipe, 0)
    with pytest.raises(BrokenPipeError), Sink(pipe[1]) as sink:
        sink.write(b"x")


def test_after_an_interrupt_nobody_waits_for_a_reader_that_does_not_read(pipe):
    with pytest.raises(KeyboardInterrupt), Sink(pipe[1]) as sink:
        sink.write(b"x" * 60_000)
        sink._flush()  # the pipe holds 64 KiB: it is as good as full now
        sink.write(b"y" * 60_000)
        until(sink._lock.locked, "the flusher is stuck in its write")
        raise KeyboardInterrupt
    close(pipe, 0)  # lets the flusher end
