"""The model's work: one task at a time, stopped on request or when it takes too long; a crash ends no other."""

import time
from threading import Event, Thread

import pytest

from got_core.studio.settings import Refused
from got_core.studio.worker import Worker


def slow(reporter):
    for number in range(100_000):
        time.sleep(0.002)
        reporter.on_token((f"token {number}",))
    raise AssertionError("the work was not ended")


def test_work_reports_its_progress():
    chains = [progress.chain for progress in Worker(9).run(lambda reporter: reporter.on_token(("a dog",)), Event())]
    assert chains == ["a dog"]


def test_work_that_takes_too_long_is_ended():
    with pytest.raises(Refused, match=r"more than 0\.2 seconds"):
        list(Worker(0.2).run(slow, Event()))


def test_work_is_stopped_and_what_nobody_reads_too():
    worker, stop = Worker(60), Event()
    reports = worker.run(slow, stop)
    next(reports)
    stop.set()
    with pytest.raises(Refused, match="stopped"):
        list(reports)
    abandoned = worker.run(slow, left := Event())
    next(abandoned)
    abandoned.close()
    assert left.is_set()
    assert list(worker.run(lambda reporter: None, Event())) == []


def test_one_task_at_a_time_and_a_crash_ends_no_other():
    worker, running, most = Worker(60), [], []

    def counted(reporter):
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)
        running.pop()

    def crash(reporter):
        raise RuntimeError("out of memory")

    failed = []

    def ask(task):
        try:
            list(worker.run(task, Event()))
        except RuntimeError as error:
            failed.append(error)

    threads = [Thread(target=ask, args=(task,)) for task in [counted, crash] * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5
    assert len(failed) == 5
