"""Long work without a terminal says how far it has come."""

import logging

from instruct.core import progress
from instruct.core.progress import Progress


def test_a_log_line_has_progress_rate_time_left_and_the_note(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "LOG_S", 0.0)
    with Progress(10, "step", done=2) as shown:
        shown.add(3, note="loss 1.25")
    (line,) = caplog.messages
    assert "5 of 10 steps" in line and "a second" in line and "s left" in line and "loss 1.25" in line


def test_lines_come_at_their_interval_and_not_from_silent_processes(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with Progress(100, "step") as shown, Progress(100, "step", shown=False) as silent:
        for _ in range(20):
            shown.add()
            silent.add()
    assert 4 <= len(caplog.messages) <= 20 * 8 / progress.LOG_S + 1


def test_what_was_done_before_is_not_in_the_rate():
    with Progress(10, "answer", done=4) as shown:
        shown.known()
        shown.add()
        assert shown.line(2.0).startswith("6 of 10 answers, 0.5 a second, 8 s left")
