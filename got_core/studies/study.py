"""Runs a study: trains and scores what is left of it, and writes its results."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from got_core.errors import UserError
from got_core.evaluation.callbacks import STEP, read_scores
from got_core.evaluation.results import check_writable, print_table
from got_core.paths import Run
from got_core.studies.analysis import Results, as_json, collect, mixed_versions
from got_core.studies.identity import State, made_with
from got_core.studies.report import draw_grid, draw_means, markdown, terminal_tables
from got_core.studies.runner import Display, Job, Slot, crowded, locked, run_jobs, slots
from got_core.studies.runs import Task, TrainedRun, plan_runs
from got_core.studies.spec import read_study
from got_core.training.recipe import RUNS
from got_core.weights.files import write_whole


def run_study(file: str, jobs: int | None = None, output: Path = RUNS) -> None:
    """Train and score variants x backbones x seeds; what has finished is not run again.

    Args:
        file: A study, such as recipes/studies/components.yaml.
        jobs: Runs at a time; by default one a GPU, else one a core.
        output: Folder that gets a folder for each study.

    Raises:
        UserError: The study or one of its recipes is wrong, or another study works on one of its runs; nothing is
            trained then. Or some runs failed; the results of the others have been written.
        KeyboardInterrupt: Ctrl-C; every run has ended.
    """
    plan, root, console = read_study(file), output, Console()
    available = slots(jobs)
    try:
        planned = plan_runs(plan, root, workers=0 if crowded(available) else None)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    check_writable(root / plan.name)
    console.print(f"{plan.title}: {len(planned)} runs of {plan.steps:,} steps, {len(available)} at a time")
    versions = {run.folder: made_with(run.settings) for run in planned}
    tasks = [task for run in planned for task in run.tasks.values()]
    left = dict.fromkeys(task.run for task in tasks if task.state is not State.FINISHED)
    try:
        with locked(left):
            errors = _do([run.training for run in planned], versions, available, console)
            trained = [run for run in planned if run.name not in errors]
            errors |= _do([task for run in trained for task in run.scorings.values()], versions, available, console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command continues; finished runs are kept") from None
    results = collect(plan, planned, errors)
    mixed = mixed_versions(planned)
    _write(results, planned, mixed, root / plan.name, file, _command(file, output))
    for table in terminal_tables(results):
        print_table(table)
    for line in mixed:
        console.print(f"made with other versions: {line}", soft_wrap=True, highlight=False)
    console.print(f"written to {root / plan.name}", soft_wrap=True)
    if errors:
        number = len(planned) * (1 + len(plan.scorings))
        raise UserError(f"{len(errors)} of {number} failed and are left out: {', '.join(errors)}")


def _do(
    tasks: Sequence[Task],
    versions: Mapping[Path, Mapping[str, str]],
    available: Sequence[Slot],
    console: Console,
) -> dict[str, str]:
    """Run the tasks that have not finished; returns the error of each that failed, by name.

    Args:
        tasks: Trainings or scorings.
        versions: Of libraries and code, by the run's folder.
        available: The slots they run in.
        console: Shows their progress.
    """
    left = [task for task in tasks if task.state is not State.FINISHED]
    with Display(console, {task.name: task.steps for task in tasks}) as display:
        for task in tasks:
            if task not in left:
                display.cached(task.name)
        for task in left:
            task.identity.begin(task.folder, versions[task.run])
        jobs = [
            Job(task.name, (sys.executable, "-m", "got_core.cli.main", *task.arguments), task.folder) for task in left
        ]
        errors = run_jobs(jobs, available, display)
    for task in left:
        if task.name not in errors and task.state is not State.FINISHED:
            reached = (read_scores(Run(task.folder).metrics) or {}).get(STEP, "none")
            errors[task.name] = f"it ended with scores of step {reached}, not {task.identity.steps} ({task.folder})"
    return errors


def _write(
    results: Results, planned: Sequence[TrainedRun], mixed: Sequence[str], folder: Path, file: str, command: str
) -> None:
    """Write diagrams, `results.md` and `results.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    images = ["results.png"] if draw_means(results, folder / "results.png") else []
    for backbone, variant in results.study.combinations if results.study.grid.axes else ():
        images.append(f"grid-{backbone}-{variant}.png")
        draw_grid(results, backbone, variant, folder / images[-1])
    write_whole(folder / "results.md", markdown(results, command=command, images=images, mixed=mixed))
    content = as_json(results, planned, command=command, file=file, mixed=mixed)
    write_whole(folder / "results.json", json.dumps(content, indent=2) + "\n")


def _command(file: str, output: Path) -> str:
    """Write the command that makes the results again, without options of the machine."""
    elsewhere = [] if output == RUNS else ["--output", str(output)]
    return shlex.join(["got", "study", file, *elsewhere])
