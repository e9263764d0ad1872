"""How the runs of a study fare, on the terminal."""

from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from got_core.evaluation.study.steps import printed_step


class Display:
    """A bar for each run that is going on, and a line for each that has ended.

    Args:
        console: Where to.
        steps: The steps that each counts to, by name; 0 where it counts none.
    """

    def __init__(self, console: Console, steps: Mapping[str, int]) -> None:
        self.steps = steps
        self.done = 0
        self._tasks: dict[str, TaskID] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
        self._progress = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def kept(self, name: str) -> None:
        """It had ended before."""
        self._line(name, "finished before")

    def began(self, name: str) -> None:
        """Show a bar."""
        self._tasks[name] = self._progress.add_task(name, total=self.steps[name] or None, said="")

    def says(self, name: str, tail: str) -> None:
        """Move the bar."""
        step = printed_step(tail)
        if step is not None:
            self._progress.update(self._tasks[name], completed=step, said=f"step {step:,} of {self.steps[name]:,}")

    def ended(self, name: str, error: str | None) -> None:
        """Leave a line in the bar's place."""
        task = self._tasks.pop(name)
        seconds = next(entry.elapsed or 0.0 for entry in self._progress.tasks if entry.id == task)
        self._progress.remove_task(task)
        self._line(name, f"finished in {seconds / 60:.1f} min" if error is None else f"failed: {error}")

    def _line(self, name: str, words: str) -> None:
        self.done += 1
        line = f"{self.done} of {len(self.steps)}  {name}: {words}"
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
