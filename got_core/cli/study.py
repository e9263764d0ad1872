"""`got study`: trains variants x backbones x seeds, scores them, and says which differences their intervals support."""

import json
import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from got_core.cli.options import Count
from got_core.cli.tables import print_table
from got_core.errors import UserError
from got_core.evaluation.results import check_writable
from got_core.evaluation.suites.callbacks import STEP, read_scores
from got_core.paths import Run
from got_core.studies.analysis import Results, as_json, collect, mixed_versions
from got_core.studies.identity import State, made_with
from got_core.studies.report import markdown, terminal_tables
from got_core.studies.runner import Display, Job, Slot, crowded, got_command, locked, run_jobs, slots
from got_core.studies.runs import Task, TrainedRun, plan_runs
from got_core.studies.spec import read_study
from got_core.training.recipe import RUNS
from got_core.weights.files import write_whole


def study(file: str, *, jobs: Count | None = None, output: str = str(RUNS)) -> None:
    """Train and score variants x backbones x seeds, or what is left of them.

    Args:
        file: A study, such as recipes/studies/components.yaml.
        jobs: Runs at a time; by default one a GPU, else one a core.
        output: Gets a folder a study.

    Raises:
        UserError: The study or one of its recipes is wrong, or another study works on one of its runs, before anything
            is trained; or some runs failed, after the results of the others were written.
        KeyboardInterrupt: Ctrl-C; every run has ended.

    Example:
        got study recipes/studies/components.yaml --jobs 2
    """
    if find_spec("matplotlib") is None:
        raise UserError("a study's figures need matplotlib: pip install 'got-framework[study]'")
    plan, root, console = read_study(file), Path(output), Console()
    places = slots(jobs)
    try:
        planned = plan_runs(plan, root, workers=0 if crowded(places) else None)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    check_writable(root / plan.name)
    console.print(f"{plan.title}: {len(planned)} runs of {plan.steps:,} steps, {len(places)} at a time")
    versions = {run.folder: made_with(run.settings) for run in planned}
    tasks = [task for run in planned for task in (run.training, *_scorings(run))]
    left = dict.fromkeys(task.run for task in tasks if task.state is not State.FINISHED)
    try:
        with locked(left):
            errors = _do([run.training for run in planned], versions, places, console)
            trained = [run for run in planned if run.name not in errors]
            errors |= _do([task for run in trained for task in _scorings(run)], versions, places, console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on; what has finished is kept") from None
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


def _scorings(run: TrainedRun) -> list[Task]:
    return [run.scoring(name) for name in run.study.scorings]


def _do(
    tasks: Sequence[Task],
    versions: Mapping[Path, Mapping[str, str]],
    places: Sequence[Slot],
    console: Console,
) -> dict[str, str]:
    """Do what has not been done; returns why some of it failed, by name.

    Args:
        tasks: Trainings or scorings.
        versions: What each run's folder is worked on with now.
        places: Where they are done.
        console: Where to say how they fare.
    """
    left = [task for task in tasks if task.state is not State.FINISHED]
    with Display(console, {task.name: task.steps for task in tasks}) as display:
        for task in tasks:
            if task not in left:
                display.cached(task.name)
        for task in left:
            task.identity.begin(task.folder, versions[task.run])
        jobs = [Job(task.name, got_command(task.arguments), task.folder) for task in left]
        errors = run_jobs(jobs, places, display)
    for task in left:
        if task.name not in errors and task.state is not State.FINISHED:
            reached = (read_scores(Run(task.folder).metrics) or {}).get(STEP, "none")
            errors[task.name] = f"it ended with figures of step {reached}, not {task.identity.steps} ({task.folder})"
    return errors


def _write(
    results: Results, planned: Sequence[TrainedRun], mixed: Sequence[str], folder: Path, file: str, command: str
) -> None:
    """Figures, `results.md` and `results.json`."""
    from got_core.studies.report import draw_grid, draw_means

    folder.mkdir(parents=True, exist_ok=True)
    images = ["results.png"] if draw_means(results, folder / "results.png") else []
    for backbone, variant in results.study.combinations if results.study.grid.axes else ():
        images.append(f"grid-{backbone}-{variant}.png")
        draw_grid(results, backbone, variant, folder / images[-1])
    write_whole(folder / "results.md", markdown(results, command=command, images=images, mixed=mixed))
    content = as_json(results, planned, command=command, file=file, mixed=mixed)
    write_whole(folder / "results.json", json.dumps(content, indent=2) + "\n")


def _command(file: str, output: str) -> str:
    """The command that makes the results again, without what only concerns the machine."""
    elsewhere = [] if Path(output) == RUNS else ["--output", output]
    return shlex.join(["got", "study", file, *elsewhere])
