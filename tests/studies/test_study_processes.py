"""The processes of a study: in parallel, ended with it, and shown."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from got_core.errors import UserError
from got_core.evaluation.results import cores, machine
from got_core.studies.runner import (
    LOG,
    VISIBLE,
    Display,
    Job,
    Slot,
    crowded,
    last_error,
    locked,
    run_jobs,
    slots,
)
from got_core.studies.runs import printed_step


class Recorded(Display):
    """Records the events of jobs."""

    def __init__(self, on_start=None) -> None:
        super().__init__(Console(quiet=True), {})
        self.events: list[tuple[str, ...]] = []
        self.on_start = on_start

    def started(self, name):
        self.events.append(("started", name))
        if self.on_start:
            self.on_start(self)

    def output(self, name, tail):
        self.events.append(("output", name, tail))

    def ended(self, name, error):
        self.events.append(("ended", name, error))


def script(name: str, folder: Path, text: str) -> Job:
    return Job(name, (sys.executable, "-c", text), folder / name)


def test_a_job_that_fails_is_named_and_does_not_end_the_others(tmp_path):
    jobs = [
        script("right", tmp_path, "import os; print('step 20'); print(os.environ['WHERE'])"),
        script("wrong", tmp_path, "import sys; print('got: error: no such image', file=sys.stderr); sys.exit(2)"),
        script("broken", tmp_path, "[][0]"),
        script("killed", tmp_path, "import os; os.kill(os.getpid(), 9)"),
        script("last", tmp_path, "import sys; print(*sys.argv[1:])"),
    ]
    display = Recorded()
    errors = run_jobs(jobs, [Slot(("--a",), {"WHERE": "here"}), Slot(("--a",), {"WHERE": "here"})], display)
    expected = {"wrong": "no such image", "broken": "IndexError: list index out of range", "killed": "ended by SIGKILL"}
    assert errors == {name: f"{why} (see {tmp_path / name / LOG})" for name, why in expected.items()}
    assert (tmp_path / "right" / LOG).read_text() == "step 20\nhere\n"
    assert (tmp_path / "last" / LOG).read_text() == "--a\n"
    ended = {event[1]: event[2] for event in display.events if event[0] == "ended"}
    assert ended == {job.name: errors.get(job.name) for job in jobs}


def test_no_more_jobs_at_a_time_than_slots(tmp_path):
    display = Recorded()
    run_jobs([script(f"{index}", tmp_path, "pass") for index in range(5)], [Slot(())] * 2, display)
    running = 0
    for event in display.events:
        running += {"started": 1, "ended": -1}.get(event[0], 0)
        assert running <= 2
    assert [event[1] for event in display.events if event[0] == "started"] == list("01234")


def test_an_interruption_ends_the_processes_cleanly(tmp_path):
    saving = "import signal, sys, time\n"
    saving += "def save(*_): open(sys.argv[1] + '/saved', 'w').close(); sys.exit(143)\n"
    saving += "signal.signal(signal.SIGTERM, save)\nopen(sys.argv[1] + '/ready', 'w').close()\ntime.sleep(60)"

    def interrupt(display):
        if (tmp_path / "a" / "ready").exists() is False:
            deadline = time.monotonic() + 60
            while not (tmp_path / "a" / "ready").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    jobs = [script("a", tmp_path, saving), script("b", tmp_path, "raise SystemExit('never started')")]
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, [Slot((str(tmp_path / "a"),))], Recorded(interrupt))
    assert (tmp_path / "a" / "saved").exists()
    assert not (tmp_path / "b").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_the_error_line_of_a_failed_job():
    assert last_error("x\ngot: error: here\nlater\n", 2) == "here"
    assert last_error("Traceback\n  File\nValueError: why\n\n", 1) == "ValueError: why"
    assert last_error("", 3) == "exit status 3"
    assert printed_step("step 20\nnoise\nstep 40\n step 60") == 40
    assert printed_step("") is None


def test_a_slot_a_core_or_a_gpu():
    alone = slots(3, gpus=[])
    assert len(alone) == 3
    assert alone[0].environment == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", VISIBLE: ""}
    assert "--trainer.accelerator=cpu" in alone[0].arguments
    assert [slot.environment for slot in slots(None, gpus=["2", "5"])] == [{VISIBLE: "2"}, {VISIBLE: "5"}]
    assert [slot.environment[VISIBLE] for slot in slots(3, gpus=["2", "5"])] == ["2", "5", "2"]
    assert "--trainer.accelerator=gpu" in slots(None, gpus=["0"])[0].arguments


def test_a_run_loads_its_own_samples_if_every_core_has_a_run():
    assert crowded(slots(cores(), gpus=[]))
    assert not crowded(slots(cores() - 1, gpus=[]) if cores() > 1 else [])
    assert not crowded(slots(cores(), gpus=["0"]))
    assert machine()["cores"] == cores()


def test_a_folder_is_locked_by_one_study(tmp_path):
    folder = tmp_path / "run"
    with locked([folder]):
        other = subprocess.run([sys.executable, "-c", LOCKING, str(folder)], capture_output=True, text=True)
        assert "run is being worked on by another study: wait" in other.stdout
    with locked([folder]), pytest.raises(UserError, match="is being worked on"), locked([folder]):
        pass
    with locked([folder]):
        pass


LOCKING = """
import sys
from pathlib import Path
from got_core.studies.runner import locked
try:
    with locked([Path(sys.argv[1])]):
        print("locked")
except Exception as error:
    print(error)
"""


def test_the_display_has_a_line_for_each_that_ended():
    console = Console(record=True, width=60, file=open(os.devnull, "w"))  # noqa: SIM115
    with Display(console, {"a": 40, "b": 0, "c": 40}) as display:
        display.cached("c")
        display.started("a")
        display.output("a", "step 20\n")
        display.started("b")
        display.ended("b", "no [room] for it")
        display.ended("a", None)
    lines = [line for line in console.export_text().splitlines() if line.strip()]
    assert lines[0] == "1 of 3  c: finished before"
    assert lines[1] == "2 of 3  b: failed: no [room] for it"
    assert lines[2].startswith("3 of 3  a: finished in 0.0 min")
