"""The model's work: one task at a time, stopped when asked to or when it takes too long; a crash ends no other."""

import time
from threading import Event, Thread

import pytest

from got_core.studio.settings import Refused
from got_core.studio.worker import Workshop


def slow(report):
    for number in range(10_000):
        time.sleep(0.002)
        report.written((f"token {number}",))


def test_work_tells_how_far_it_is():
    told = [progress.chain for progress in Workshop(9).do(lambda report: report.written(("a dog",)), Event())]
    assert told == ["a dog"]


def test_work_that_takes_too_long_is_ended():
    begun = time.monotonic()
    with pytest.raises(Refused, match=r"more than 0\.2 seconds"):
        list(Workshop(0.2).do(slow, Event()))
    assert time.monotonic() - begun < 5


def test_work_is_stopped_and_what_nobody_reads_too():
    workshop, stop = Workshop(60), Event()
    reports = workshop.do(slow, stop)
    next(reports)
    stop.set()
    with pytest.raises(Refused, match="stopped"):
        list(reports)
    abandoned = workshop.do(slow, left := Event())
    next(abandoned)
    abandoned.close()
    assert left.is_set()
    begun = time.monotonic()
    assert list(workshop.do(lambda report: None, Event())) == []
    assert time.monotonic() - begun < 5


def test_one_task_at_a_time_and_a_crash_ends_no_other():
    workshop, running, most = Workshop(60), [], []

    def counted(report):
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)
        running.pop()

    def crash(report):
        raise RuntimeError("out of memory")

    failed = []

    def ask(task):
        try:
            list(workshop.do(task, Event()))
        except RuntimeError as error:
            failed.append(error)

    threads = [Thread(target=ask, args=(task,)) for task in [counted, crash] * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5
    assert len(failed) == 5
