"""A recipe: the YAML that names data, components and trainer by class path, read and built by LightningCLI."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import get_loader, set_loader
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from got_core.config import add_working_directory, check_keys, read_recipe
from got_core.errors import UserError, as_user_error
from got_core.paths import ROOT, Run, locate
from got_core.training.changes import RECIPE
from got_core.training.checkpointing import LastCheckpoint, RandomState
from got_core.training.recipe_errors import plain_errors
from got_core.weights.loading import without_weights

RUNS = Path("runs")
"""Parent of run folders, unless `trainer.default_root_dir` names one."""

LAST = "last"
"""The checkpoint path that means the newest one of the recipe's own run."""

# "omegaconf+" resolves ${...} after files and overrides are merged, so that followers follow.
_MODE = "omegaconf+"
_PARSER: dict[str, Any] = {"parser_mode": _MODE, "exit_on_error": False, "allow_abbrev": False}
_load_yaml = get_loader("yaml")


def _load(text: str) -> Any:
    """Read a value of the command line, or a file that a recipe names."""
    # Between nested classes jsonargparse writes a null of the command line as "None", which would arrive as text.
    if text == str(None):
        return None
    check_keys(text)
    return _load_yaml(text)


set_loader(_MODE, _load, (yaml.YAMLError,))

Part = TypeVar("Part", LightningModule, LightningDataModule)


class TrainingBar(RichProgressBar):
    """Lightning's progress bar, without epochs if a run is measured in steps."""

    @property
    def total_train_batches(self) -> int | float:
        """Return the batches of the epoch or of the run, those before a resume included."""
        steps = self.trainer.max_steps * self.trainer.accumulate_grad_batches
        batches = self.trainer.num_training_batches
        return min(batches, steps) if steps > 0 else batches

    def _get_train_description(self, current_epoch: int) -> str:
        counted = self.trainer.max_epochs is not None and self.trainer.max_epochs > 0
        return super()._get_train_description(current_epoch) if counted else f"{'Training':{len('Validation')}}"


class SaveRecipe(SaveConfigCallback):
    """Writes the resolved recipe into the run's folder when training starts."""

    def __init__(self, parser: LightningArgumentParser, config: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the recipe, so that a run that is resumed can be compared with it."""
        checkpoint[RECIPE] = self.parser.dump(self.config, skip_unset=False)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write `config.yaml`; an older one of the same folder is replaced."""
        if stage == "fit":
            path = Run(Path(trainer.default_root_dir)).recipe
            path.parent.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, str(path), skip_unset=False, overwrite=True)


class ResolvedRecipe(LightningCLI):
    """A recipe that is read into `config` but not built: its data and weights are not needed.

    Args:
        files: YAML files, later ones override earlier ones; paths may be relative to the installed packages.
        overrides: As on the command line, such as `--model.backbone.depth 8`; they override the files.

    Raises:
        UserError: What is wrong with the recipe, in one line.
    """

    def __init__(self, files: Sequence[str], overrides: Sequence[str] = ()) -> None:
        add_working_directory()
        self.files = [_locate_recipe(file) for file in files]
        super().__init__(
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveRecipe,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs=dict(_PARSER),
            run=False,
            args=[*(f"--config={file}" for file in self.files), *overrides],
        )

    @property
    def run_files(self) -> Run:
        """Return the folder of this recipe's run."""
        return Run(Path(self.config.trainer.default_root_dir))

    def as_yaml(self) -> str:
        """Return the resolved recipe as it is saved."""
        text: str = self.parser.dump(self.config, skip_unset=False)
        return text

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add trainer, data and model, built in this order: missing data is reported before weights load."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        # Lightning says `str | Strategy`, of which every class path is the first.
        vars(parser._option_string_actions["--trainer.strategy"])["_typehint"] = Strategy | str
        parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=False)
        parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True, required=False)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments, and set the run's folder."""
        with plain_errors(parser):
            self.config = parser.parse_args(args)
        for part in ("model", "data"):
            if self.config.get(part) is None:
                raise UserError(f"no {part} is given: name a recipe with --config")
        trainer = self.config.trainer
        stem = "+".join(path.stem for path in self.files)
        trainer.default_root_dir = str(trainer.default_root_dir or RUNS / (stem or "unnamed"))

    def instantiate_classes(self) -> None:
        """Build nothing."""


class Recipe(ResolvedRecipe):
    """A recipe with its `trainer`, `model` and `datamodule` built.

    Args:
        files, overrides: See `ResolvedRecipe`.
        checkpoint: A checkpoint to be loaded, or "last" for the newest of this recipe's run; must exist.
        prepare: Called with the recipe once it is known to fit, before weights load.

    Raises:
        UserError: What is wrong with the recipe, in one line.
    """

    def __init__(
        self,
        files: Sequence[str],
        overrides: Sequence[str] = (),
        checkpoint: str | None = None,
        prepare: "Callable[[Recipe], None] | None" = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.prepare = prepare
        super().__init__(files, overrides)

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint before anything is built."""
        if self.checkpoint == LAST:
            self.checkpoint = str(self.run_files.last)
            if not self.run_files.last.exists():
                raise UserError(f"there is nothing to resume from: {self.checkpoint} does not exist")
        elif self.checkpoint is not None and not Path(self.checkpoint).exists():
            raise UserError(f"{self.checkpoint}: no such checkpoint")

    def instantiate_classes(self) -> None:
        """Build data, model and trainer, once it is known without any weights that the model's parts fit."""
        with as_user_error(MisconfigurationException), plain_errors(self.parser):
            with without_weights():
                build_model(self.config.model.as_dict())
            if self.prepare is not None:
                self.prepare(self)
            LightningCLI.instantiate_classes(self)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, which logs to TensorBoard and saves `last.ckpt` unless the recipe says otherwise."""
        configured = self.config_init.trainer
        if configured.logger in (None, True):
            kwargs["logger"] = TensorBoardLogger(configured.default_root_dir, name=self.run_files.logs.name, version="")
        callbacks = configured.callbacks or []
        defaults: dict[type[Callback], type[Callback]] = {Checkpoint: LastCheckpoint, RandomState: RandomState}
        if configured.enable_progress_bar is not False:
            defaults[ProgressBar] = TrainingBar
        missing = [kind for kind in defaults if not any(isinstance(callback, kind) for callback in callbacks)]
        # In front, so that the progress bar has ended before a recipe's callbacks print.
        callbacks = [*(defaults[kind]() for kind in missing), *callbacks]
        return super().instantiate_trainer(callbacks=callbacks, **kwargs)


def build_model(settings: Mapping[str, Any]) -> LightningModule:
    """Build the model of a resolved recipe of the user's own, without its trainer and data.

    Args:
        settings: What stands under `model`: `class_path` and `init_args`.

    Raises:
        UserError: What is wrong with the settings, in one line.
    """
    return _build("model", LightningModule, settings)


def build_data(settings: Mapping[str, Any]) -> LightningDataModule:
    """Build the DataModule of a resolved recipe; as `build_model`, from what stands under `data`."""
    return _build("data", LightningDataModule, settings)


def _build(name: str, kind: type[Part], settings: Mapping[str, Any]) -> Part:
    add_working_directory()
    parser = LightningArgumentParser(**_PARSER)
    parser.add_lightning_class_args(kind, name, subclass_mode=True)
    with plain_errors(parser):
        part = parser.instantiate(parser.parse_object({name: dict(settings)}))[name]
    if not isinstance(part, kind):
        raise UserError(f"the recipe names no {name}")
    return part


def _locate_recipe(path: str) -> Path:
    """Return the path of a recipe's file, which holds a mapping."""
    try:
        file = Path(locate(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe (looked in {Path.cwd()} and {ROOT})") from None
    read_recipe(file)
    return file
