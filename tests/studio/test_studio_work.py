"""The model's work: one job at a time, visitors in turn, stopped on request; a crash ends no other."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event, Thread

import pytest

from got_core.studio.settings import Limits, Refused
from got_core.studio.worker import Worker


def worker_of(**limits):
    return Worker(replace(Limits(), **limits))


def slow(reporter):
    for number in range(100_000):
        time.sleep(0.002)
        reporter.on_token((f"token {number}",))
    raise AssertionError("the work was not ended")


def test_work_reports_its_progress():
    chains = [progress.chain for progress in worker_of().run(lambda reporter: reporter.on_token(("a dog",)), Event())]
    assert chains == ["a dog"]


def test_work_that_takes_too_long_is_ended():
    with pytest.raises(Refused, match=r"more than 0\.2 seconds"):
        list(worker_of(seconds=0.2).run(slow, Event()))


def test_work_is_stopped_and_what_nobody_reads_too():
    worker, stop = worker_of(), Event()
    reports = worker.run(slow, stop)
    next(reports)
    stop.set()
    with pytest.raises(Refused, match="stopped"):
        list(reports)
    abandoned = worker.run(slow, left := Event())
    next(abandoned)
    abandoned.close()
    assert left.is_set()
    afterwards = worker.run(lambda reporter: reporter.on_plan(), Event())
    assert [progress.before for progress in afterwards][-1] == 0


def test_one_task_at_a_time_and_a_crash_ends_no_other():
    worker, running, most = worker_of(), [], []

    def counted(reporter):
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)
        running.pop()

    def crash(reporter):
        raise RuntimeError("out of memory")

    failed = []

    def ask(task, visitor):
        try:
            list(worker.run(task, Event(), visitor))
        except RuntimeError as error:
            failed.append(error)

    threads = [Thread(target=ask, args=(task, f"{number}")) for number, task in enumerate([counted, crash] * 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5
    assert len(failed) == 5


class Crowd:
    """Visitors of a worker whose jobs begin only when `open` is called."""

    def __init__(self, **limits):
        self.worker, self.opened, self.begun, self.stops = worker_of(**limits), Event(), [], []
        self.threads = ThreadPoolExecutor(50)
        self.answers = [self.ask("gate", self.hold)]
        while not self.begun:
            time.sleep(0.001)

    def hold(self, reporter):
        self.begun.append("gate")
        self.opened.wait(60)

    def ask(self, visitor, task=None):
        """Send a job; returns a future of the numbers of jobs before it that were reported, or of its error."""
        self.stops.append(Event())
        task = task or (lambda reporter: self.begun.append(visitor))
        reports = self.worker.run(task, self.stops[-1], visitor)
        return self.threads.submit(lambda: [progress.before for progress in reports])

    def join(self, *visitors, task=None):
        """Send jobs one after the other."""
        for visitor in visitors:
            count = self.waiting()
            self.answers.append(self.ask(visitor, task))
            while self.waiting() == count and not self.answers[-1].done():
                time.sleep(0.001)

    def waiting(self):
        return sum(map(len, self.worker._waiting.values()))

    def open(self):
        self.opened.set()
        return [answer.exception(60) or answer.result() for answer in self.answers[1:]]


def test_who_sends_many_requests_delays_only_their_own():
    crowd = Crowd(queue=40, address_queue=40)
    crowd.join(*["many"] * 33, "one")
    crowd.open()
    assert crowd.begun == ["gate", "many", "one", *["many"] * 32]


def test_a_visitor_whose_request_is_running_comes_last():
    crowd = Crowd()
    crowd.join("gate", "gate", "a", "b", "a", "c")
    crowd.open()
    assert crowd.begun == ["gate", "a", "b", "c", "gate", "a", "gate"]


def test_those_who_wait_see_how_many_come_before_them():
    crowd = Crowd()
    crowd.join("a", "a", "b")
    (first, second, third) = crowd.open()
    assert first == [1] * 3
    assert second == [2, 3, 2, 1]
    assert third == [2, 1]


def test_too_many_waiting_requests_are_refused_by_address_and_in_all():
    crowd = Crowd(queue=5, address_queue=3)
    crowd.join(*["many"] * 4, "a", "b", "c")
    answers = crowd.open()
    assert [isinstance(answer, Refused) for answer in answers] == [False, False, False, True, False, False, True]
    assert "3 requests from your address are waiting" in str(answers[3])
    assert "too many requests are waiting" in str(answers[6])
    assert crowd.begun == ["gate", "many", "a", "b", "many", "many"]


def test_a_request_that_is_stopped_while_it_waits_is_never_run():
    crowd = Crowd()
    crowd.join("a", "b")
    crowd.stops[1].set()
    assert "stopped" in str(crowd.answers[1].exception(60))
    assert crowd.waiting() == 1
    abandoned = crowd.worker.run(lambda reporter: crowd.begun.append("abandoned"), Event(), "c")
    assert next(abandoned).before == 2
    abandoned.close()
    assert crowd.waiting() == 1
    crowd.open()
    assert crowd.begun == ["gate", "b"]


def test_the_time_limit_counts_from_the_start_of_the_work():
    crowd = Crowd(seconds=0.5)
    crowd.join("a", task=lambda reporter: reporter.on_token(("a dog",)))
    time.sleep(0.6)
    assert crowd.open() == [[1, 0]]
