"""Paths: of modules to import, those written in recipes, and the files of a run's folder."""

import gc
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

LARGEST_SEED = 2**31 - 1
"""Largest seed that is accepted."""


ROOT = Path(__file__).resolve().parent.parent
"""The folder of the installed packages; bundled recipes and their assets are beside them."""

BUNDLED_MODEL = "recipes/assets/scenes_model"
"""The bundled small model of rendered scenes, as `locate` finds it."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILE_SUFFIXES = {
    ".ckpt",
    ".csv",
    ".jpeg",
    ".jpg",
    ".json",
    ".jsonl",
    ".ndjson",
    ".parquet",
    ".png",
    ".pt",
    ".safetensors",
    ".tsv",
    ".txt",
    ".yaml",
}


def quiet() -> None:
    """Silence warnings of bitsandbytes, which diffusers imports where it is installed: of kernels, and of each cast."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@contextmanager
def importing() -> Iterator[None]:
    """Inside, Python's collector of cycles is off: it would search what imports make again and again, and free none."""
    quiet()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_inside: ContextVar[Path | None] = ContextVar("inside", default=None)


@contextmanager
def only_inside(folder: Path) -> Iterator[None]:
    """Restrict `locate` to files in a folder, after links: no hub id, and no other file of the user."""
    token = _inside.set(folder.resolve())
    try:
        yield
    finally:
        _inside.reset(token)


def locate(path: str | Path) -> str:
    """Find an existing file or folder: as given (from the working directory), else beside the installed packages.

    A path that does not exist but looks like a hub id (`org/name`) is returned unchanged.

    Raises:
        FileNotFoundError: The path does not exist and is no hub id.
    """
    folder = _inside.get()
    if folder is not None:
        if Path(path).exists() and Path(path).resolve().is_relative_to(folder):
            return str(path)
        raise FileNotFoundError(f"{path}: not a file or folder of the model's own, and it reads no others")
    for candidate in (Path(path).expanduser(), ROOT / path):
        if candidate.exists():
            return str(candidate)
    if is_hub_id(str(path)):
        return str(path)
    raise FileNotFoundError(f"{path}: no such file or folder (looked in {Path.cwd()} and {ROOT})")


def is_hub_id(text: str) -> bool:
    """Say whether a path that does not exist looks like a hub id: `org/name`, of which `org` is no folder."""
    return bool(
        _HUB_ID.fullmatch(text) and Path(text).suffix not in _FILE_SUFFIXES and not _is_folder(text.split("/")[0])
    )


def _is_folder(name: str) -> bool:
    return Path(name).is_dir() or (ROOT / name).is_dir()


@dataclass(frozen=True)
class Run:
    """The folder of a training run and the names of its files."""

    folder: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.folder / "config.yaml"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def weights(self) -> Path:
        """Weights without a training state, such as those of an imported checkpoint."""
        return self.folder / "model.safetensors"

    @property
    def metrics(self) -> Path:
        """Final scores."""
        return self.folder / "metrics.json"

    @property
    def bad_records(self) -> Path:
        """Records that training has replaced because they cannot be read, one JSON object a line."""
        return self.folder / "bad_records.jsonl"

    @property
    def logs(self) -> Path:
        """TensorBoard's files."""
        return self.folder / "tensorboard"

    @property
    def lock(self) -> Path:
        """Locked by the process that trains."""
        return self.folder / ".lock"

    @property
    def samples(self) -> Path:
        """Contact sheet of the final images."""
        return self.folder / "samples.png"


def find_checkpoint(path: str | Path) -> tuple[Run, Path]:
    """Find the run and the checkpoint of a folder, or of a file in it.

    A run's folder has its newest checkpoint in `checkpoints/`; an imported one has `model.safetensors`.

    Raises:
        FileNotFoundError: The path does not exist, has no checkpoint, or has no recipe beside it.
    """
    try:
        given = Path(locate(path)).absolute()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such run folder or checkpoint") from None
    if not given.exists():
        raise FileNotFoundError(f"{path}: no such run folder or checkpoint")
    if given.name.endswith(".ckpt"):
        run, checkpoint = Run(given.parent.parent), given
    elif given.is_file():
        run, checkpoint = Run(given.parent), given
    else:
        run = Run(given)
        checkpoint = run.weights if run.weights.exists() and not run.last.exists() else run.last
    if not checkpoint.exists():
        raise FileNotFoundError(f"{path}: there is no checkpoint in this folder ({checkpoint} is missing)")
    if not run.recipe.is_file():
        raise FileNotFoundError(f"{path}: there is no recipe beside this checkpoint ({run.recipe} is missing)")
    return run, checkpoint
