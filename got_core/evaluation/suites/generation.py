"""Images generated for prompts under a Trainer, each rank a part of them, in a folder that can be resumed."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from got_core.data.visualization import to_pil
from got_core.diffusion.sampling import GuidanceScales
from got_core.errors import UserError, one_line
from got_core.evaluation.results import SETTINGS
from got_core.evaluation.suites.geneval import CHAINS, FOLDER, METADATA, SAMPLES
from got_core.model import GoTModel
from got_core.types import Batch, Generation, Sample
from got_core.weights.files import write_whole


def read_generation_prompts(file: Path) -> list[dict[str, Any]]:
    """One prompt a line: a JSON object with `prompt` and, if it has a category, `tag`; or the prompt itself.

    Raises:
        UserError: There is no such file, no prompt in it, or a line that is JSON without a prompt.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no readable prompts ({type(error).__name__})") from error
    prompts = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line:
            continue
        try:
            metadata = json.loads(line) if line.startswith("{") else {"prompt": line}
        except ValueError as error:
            raise UserError(f"{file}, line {number}: not JSON") from error
        if not isinstance(metadata.get("prompt"), str) or not metadata["prompt"].strip():
            raise UserError(f"{file}, line {number}: it has no prompt")
        prompts.append(metadata)
    if not prompts:
        raise UserError(f"{file}: there is no prompt in it")
    return prompts


class DrawingUnderTrainer(LightningModule, ABC):
    """`trainer.predict` draws what is wanted; what was written stays, so that a run that was ended can go on.

    Args:
        model: Plans and draws.
        wanted: What to draw, with its seed and where it is written; the same on all ranks.
        size: (height, width) of the images in pixels.
        batch_size: Images that are drawn at a time.
        steps, scales: Instead of the model's own.
    """

    def __init__(
        self,
        model: GoTModel,
        wanted: Sequence[Any],
        size: tuple[int, int],
        batch_size: int = 8,
        steps: int | None = None,
        scales: GuidanceScales | None = None,
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self.wanted, self.size, self.batch_size = wanted, size, batch_size
        self.steps, self.scales = steps, scales
        self.allow_zero_length_dataloader_with_multiple_devices = True

    @abstractmethod
    def share(self, rank: int, ranks: int) -> Dataset[Sample]:
        """What a rank draws, as samples for a reasoner's processor."""

    @abstractmethod
    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Draw a batch and write its images."""

    def predict_dataloader(self) -> DataLoader:
        """This rank's share."""
        share = self.share(self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(share, batch_size=self.batch_size, collate_fn=self.model.processor)

    def draw(self, batch: Batch, chains: Sequence[str] | None, seeds: Sequence[int]) -> Generation:
        """A batch, each image from its own seed; see `GoTModel.generate`."""
        return self.model.generate(batch, chains, seed=seeds, steps=self.steps, scales=self.scales)


def write_image(file: Path, image: Float[Tensor, "3 H W"]) -> None:
    """Write an image in [-1, 1] as PNG, whole or not at all."""
    partial = file.with_name(f".{file.name}.partial-{os.getpid()}")
    to_pil(image).save(partial, format="PNG")
    os.replace(partial, file)


ABSENT = "nothing"
"""Stands for a setting that is not there."""


@dataclass(frozen=True)
class Wanted:
    """An image that is still to be drawn.

    Attributes:
        prompt: What of.
        folder: Of the prompt.
        name: Of the image's file, without its ending.
        seed: Of its noise.
    """

    prompt: str
    folder: Path
    name: str
    seed: int

    @property
    def image(self) -> Path:
        """The image's file."""
        return self.folder / SAMPLES / f"{self.name}.png"

    @property
    def chain(self) -> Path:
        """The file of the chain it is drawn from; all images of a prompt are drawn from one chain."""
        return self.folder / CHAINS / f"{self.name}.txt"


def image_seed(seed: int, prompt: int, image: int) -> int:
    """The seed of an image's noise: a function of the run's seed and the numbers of prompt and image alone."""
    return int(np.random.SeedSequence([seed, prompt, image]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def still_wanted(root: Path, prompts: Sequence[Mapping[str, Any]], per_prompt: int, seed: int) -> list[Wanted]:
    """The images that are not in a folder yet, prompt by prompt."""
    images = [
        Wanted(metadata["prompt"], root / FOLDER.format(i), FOLDER.format(k), image_seed(seed, i, k))
        for i, metadata in enumerate(prompts)
        for k in range(per_prompt)
    ]
    return [wanted for wanted in images if not wanted.image.exists()]


def prepare_folder(root: Path, prompts: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> None:
    """Write how will be drawn, then what, or see that a folder with images was drawn in the same way.

    A folder that has no image yet takes new settings.

    Raises:
        UserError: There is something else in the folder, its images were drawn otherwise, or it cannot be written to.
    """
    take_settings(root, settings, f"*/{SAMPLES}/*.png", [f"*/{CHAINS}/*.txt"])
    try:
        for number, metadata in enumerate(prompts):
            folder, text = root / FOLDER.format(number), json.dumps(metadata) + "\n"
            for part in (SAMPLES, CHAINS):
                (folder / part).mkdir(parents=True, exist_ok=True)
            if not (folder / METADATA).exists() or (folder / METADATA).read_text(encoding="utf-8") != text:
                write_whole(folder / METADATA, text)
    except (OSError, ValueError) as error:
        raise UserError(f"{root}: cannot be drawn into ({one_line(error)})") from error


def take_settings(root: Path, settings: Mapping[str, Any], images: str, others: Sequence[str]) -> None:
    """Write how will be drawn into a folder without images, or see that one with images was drawn in the same way.

    Args:
        root: The folder; made if it is not there.
        settings: How will be drawn.
        images: Pattern of the images' files.
        others: Patterns of what follows from the settings as well; those files are removed where these change.

    Raises:
        UserError: There is something else in the folder, its images were drawn otherwise, or it cannot be written to.
    """
    file = root / SETTINGS
    try:
        if not file.exists() and root.exists() and any(root.iterdir()):
            raise UserError(f"{root}: it holds something that was not drawn here; name a new folder")
        former = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        if former == settings:
            return
        differing = first_difference(former, settings) if former is not None else None
        if differing is not None and next(root.glob(images), None) is not None:
            name, before, now = differing
            raise UserError(f"{root}: its images were drawn with {name} {before}, not {now}; name a new folder")
        for pattern in others:
            for stale in root.glob(pattern):
                stale.unlink()
        root.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(dict(settings), indent=2) + "\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{root}: cannot be drawn into ({one_line(error)})") from error


def first_difference(one: Any, other: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The name, with dots between levels, and both values of the first setting that differs; None where none does."""
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return None if one == other else (name, one, other)
    for key in (*other, *(key for key in one if key not in other)):
        inner = f"{name}.{key}" if name else str(key)
        found = first_difference(one.get(key, ABSENT), other.get(key, ABSENT), inner)
        if found is not None:
            return found
    return None


class _Requests(Dataset[Sample]):
    """Images to be drawn, as samples for a reasoner's processor."""

    def __init__(self, wanted: Sequence[Wanted], size: tuple[int, int]) -> None:
        self.wanted, self.size = wanted, size

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, index: int) -> Sample:
        wanted = self.wanted[index]
        return Sample(prompt=wanted.prompt, chain="", size=self.size, meta={"wanted": wanted})


class PromptDrawing(DrawingUnderTrainer):
    """Draws prompts: a prompt's chain is written once, greedily, and all of its images are drawn from it."""

    def share(self, rank: int, ranks: int) -> Dataset[Sample]:
        """Every so many prompts."""
        folders = list(dict.fromkeys(wanted.folder for wanted in self.wanted))
        own = set(folders[rank::ranks])
        return _Requests([wanted for wanted in self.wanted if wanted.folder in own], self.size)

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Draw a batch, each image from its own seed, and write it."""
        wanted: list[Wanted] = [meta["wanted"] for meta in batch.meta]
        drawing = self.draw(batch, self._chains(batch, wanted), [entry.seed for entry in wanted])
        for entry, image in zip(wanted, drawing.images, strict=True):
            write_image(entry.image, image)

    def _chains(self, batch: Batch, wanted: Sequence[Wanted]) -> list[str]:
        """The chain of each image: its prompt's where that is written, else written now, once a prompt."""
        chains = {entry.folder: _written_chain(entry.folder) for entry in wanted}
        firsts = {entry.folder: sample for entry, sample in zip(wanted, batch.samples(), strict=True)}
        lacking = [folder for folder, chain in chains.items() if chain is None]
        if lacking:
            asked = self.model.processor([firsts[folder] for folder in lacking]).to(self.device)
            chains |= zip(lacking, self.model.plan(asked).chains, strict=True)
        found = [chains[entry.folder] or "" for entry in wanted]
        for entry, chain in zip(wanted, found, strict=True):
            entry.chain.write_bytes(f"{chain}\n".encode())
        return found


def _written_chain(folder: Path) -> str | None:
    """The chain that images of a prompt were drawn from; None where there is none yet."""
    for file in sorted((folder / CHAINS).glob("*.txt")):
        text = file.read_bytes().decode()
        if text.endswith("\n"):
            return text[:-1]
    return None
