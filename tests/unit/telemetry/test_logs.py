import json
import logging
import os

import pytest

from shoal.telemetry.logs import LineWriter, log_as_json


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def lines(descriptor):
    return [json.loads(line) for line in os.read(descriptor, 1 << 20).splitlines()]


def test_every_line_is_a_json_object_with_its_time(pipe):
    writer = LineWriter(pipe[1])
    writer.offer({"message": "a\nb", "rows": 3})
    writer.offer({"message": "ü"})
    writer.close(20)
    first, second = lines(pipe[0])
    assert first.pop("time").endswith("Z")
    assert first == {"message": "a\nb", "rows": 3}
    assert second["message"] == "ü"


def test_a_full_pipe_drops_lines_and_never_blocks(pipe):
    writer = LineWriter(pipe[1], queued=100)
    for _ in range(20_000):  # nobody reads; more than a pipe and the queue hold
        writer.offer({"message": "x" * 1000})
    assert writer.dropped > 0
    os.set_blocking(pipe[0], False)
    while True:
        try:
            os.read(pipe[0], 1 << 20)
        except BlockingIOError:
            writer.close(0.05)
            if not writer.alive:
                break


def test_nobody_reads_any_more():
    reading, writing = os.pipe()
    os.close(reading)
    writer = LineWriter(writing)
    writer.offer({"message": "lost"})
    writer.close(20)
    os.close(writing)
    assert writer.dropped == 1


def test_records_of_logging_become_lines(pipe):
    root, ours = logging.getLogger(), logging.getLogger("shoal")
    before = (root.handlers, root.level, ours.handlers, ours.propagate, ours.level)
    writer = LineWriter(pipe[1])
    try:
        log_as_json(writer, {"worker": 2})
        logging.getLogger("shoal.server").info("hello %s", "there")
        logging.getLogger("other").info("not shown")
        try:
            raise ValueError("why")
        except ValueError:
            logging.getLogger("shoal.server").exception("it failed")
    finally:
        root.handlers, level, ours.handlers, ours.propagate, our_level = before
        root.setLevel(level)
        ours.setLevel(our_level)
    writer.close(20)
    first, second = lines(pipe[0])
    assert (first["message"], first["level"], first["logger"], first["worker"]) == (
        "hello there",
        "info",
        "shoal.server",
        2,
    )
    assert second["message"] == "it failed"
    assert "ValueError: why" in second["traceback"]
