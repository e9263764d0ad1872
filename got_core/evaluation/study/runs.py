"""The runs of a study and their scorings: where each lies and what it is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from got_core.evaluation.study.essentials import DIGITS, PRINTED_STEPS
from got_core.evaluation.study.plan import Overrides, Study
from got_core.evaluation.study.record import Asked, State, digest
from got_core.paths import Run
from got_core.recipe import LAST

TRAINED = "trained"
"""The folder that the runs of all studies lie in, each once, whichever studies it belongs to."""

EVALUATIONS = "evaluations"
"""The folder of a run that its scorings lie in."""

_QUIETLY = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")


@dataclass(frozen=True)
class Task:
    """One thing that a process is started for: a run that is trained, or a scoring of a trained run.

    Attributes:
        name: In the study; of a scoring, with the run's in front.
        folder: Where it leaves `metrics.json`.
        run: The folder of the run it belongs to.
        asked: What makes it what it is.
        arguments: Of the `got` command.
        steps: Optimizer steps it counts to; 0 where it trains nothing.
    """

    name: str
    folder: Path
    run: Path
    asked: Asked
    arguments: tuple[str, ...]
    steps: int = 0

    @property
    def state(self) -> State:
        """How far it has come.

        Raises:
            UserError: Its folder holds something else.
        """
        return self.asked.state(self.folder)


@dataclass(frozen=True)
class TrainedRun:
    """One combination of a study under one seed.

    Attributes:
        study: The study.
        backbone, variant: Names in it.
        seed: One of its seeds.
        root: The folder that all studies lie in.
        settings: The resolved recipe's, without the seed: what decides in which folder it lies.
        seeded: Options that are given the seed.
        machine: Options that change no figure.
    """

    study: Study
    backbone: str
    variant: str
    seed: int
    root: Path
    settings: Mapping[str, Any]
    seeded: tuple[str, ...] = ("--seed_everything",)
    machine: Overrides = field(default=(), compare=False)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.backbone}-{self.variant}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        """Where it is trained: the same for all studies that ask for the same run."""
        stem = "+".join(Path(file).stem for file in self.files)
        return self.root / TRAINED / f"{stem}-{digest(self.settings)[:DIGITS]}-seed{self.seed}"

    @property
    def files(self) -> tuple[str, ...]:
        """The recipe's."""
        return self.study.backbones[self.backbone]

    @property
    def overrides(self) -> Overrides:
        """The variant's, then what the study sets."""
        seeds = (f"{option}={self.seed}" for option in self.seeded)
        return (*combination_overrides(self.study, self.backbone, self.variant), *seeds)

    @property
    def training(self) -> Task:
        """What trains the run, or goes on with it."""
        asked = Asked({**self.settings, "seed": self.seed}, self.study.steps)
        arguments = (
            "fit",
            *(f"--config={file}" for file in self.files),
            *self.overrides,
            *self.machine,
            f"--trainer.default_root_dir={self.folder}",
            *_QUIETLY,
            f"--trainer.callbacks+={PRINTED_STEPS}",
            f"--ckpt_path={LAST}" if asked.state(self.folder) is State.BEGUN else "--overwrite",
        )
        return Task(self.name, self.folder, self.folder, asked, arguments, self.study.steps)

    def scoring(self, name: str) -> Task:
        """What scores the trained run once more, under an evaluation or at a point of the grid."""
        folder, overrides = self.scored_in(name), self.study.scorings[name]
        place = f"--trainer.default_root_dir={folder}"
        arguments = ("validate", f"--checkpoint={self.folder}", *overrides, *self.machine, place, *_QUIETLY)
        return Task(f"{self.name} {name}", folder, self.folder, self._asked_to_score(name), arguments)

    def task(self, scoring: str | None) -> Task:
        """That of a scoring, or the training for None."""
        return self.training if scoring is None else self.scoring(scoring)

    def scored_in(self, name: str | None) -> Path:
        """The folder of a scoring; that of the run for its own."""
        if name is None:
            return self.folder
        return self.folder / EVALUATIONS / f"{name}-{self._asked_to_score(name).digest[:DIGITS]}"

    def metrics(self, name: str | None) -> Path:
        """The file of a scoring's figures; of the run's own for None."""
        return Run(self.scored_in(name)).metrics

    def _asked_to_score(self, name: str) -> Asked:
        return Asked({"arguments": list(self.study.scorings[name])}, self.study.steps)


def combination_overrides(study: Study, backbone: str, variant: str) -> Overrides:
    """A variant's options, then those by which all runs of the study have the same number of steps."""
    steps = (f"--trainer.max_steps={study.steps}", "--trainer.max_epochs=-1", "--trainer.max_time=null")
    return (*study.variants[variant][backbone], *steps)
