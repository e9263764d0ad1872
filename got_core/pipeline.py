"""GoTPipeline: a trained run, ready to reason and to draw."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from got_core.checkpoints import load_weights
from got_core.errors import UserError
from got_core.paths import find_checkpoint
from got_core.recipe import build_model, read_recipe
from got_core.system import GoTSystem
from got_core.types import Batch, Sample

Image = Float[Tensor, "3 H W"]


class GoTPipeline:
    """Plans and draws with a system; deterministic for a seed.

    Args:
        system: A trained system; put into evaluation mode.
        size: (height, width) in pixels of images drawn without a source.
    """

    def __init__(self, system: GoTSystem, size: tuple[int, int]) -> None:
        self.system = system.eval()
        self.size = size

    @classmethod
    def from_run(
        cls, path: str | Path, device: torch.device | str | None = None, size: tuple[int, int] | None = None
    ) -> "GoTPipeline":
        """The system of a run's folder (its newest checkpoint), of a checkpoint in it, or of an imported folder.

        Averaged weights are loaded where the run averaged them.

        Args:
            path: Folder or checkpoint.
            device: Where to run; the best there is by default.
            size: (height, width) in pixels; that of the run's training data by default.

        Raises:
            FileNotFoundError: There is no such run or checkpoint.
            UserError: The recipe or the checkpoint is not of a GoTSystem, or does not fit it.
        """
        run, _ = find_checkpoint(path)
        size = size or trained_size(read_recipe(run.recipe).get("data"))
        if size is None:
            raise UserError(f"{run.recipe} does not say how large its images are: give a size")
        return cls(load_system(path).to(device or default_device()), size)

    def plan(self, prompt: str, source: Image | None = None, *, seed: int = 0, temperature: float = 0.0) -> str:
        """The reasoning chain for a prompt, or for an instruction with its source image."""
        return self.system.plan(self._batch(prompt, "", source), temperature=temperature, seed=seed).chains[0]

    def draw(
        self,
        prompt: str,
        chain: str,
        source: Image | None = None,
        *,
        seed: int = 0,
        steps: int | None = None,
        scales: dict[str, float] | None = None,
    ) -> Image:
        """The image of a prompt and a chain, which may have been edited by hand.

        Args:
            prompt: Caption or instruction; may be empty.
            chain: In any form that `got_core.chain` reads.
            source: The image to be edited, in [-1, 1].
            seed: Of the noise.
            steps: Denoising steps, instead of the system's own.
            scales: Some of `semantic`, `spatial`, `reference`, instead of the system's own.
        """
        batch = self._batch(prompt, chain, source)
        own = self.system.editing_scales if source is not None else self.system.generation_scales
        drawing = self.system.draw(batch, [chain], seed=seed, steps=steps, scales=replace(own, **(scales or {})))
        return drawing.images[0]

    def _batch(self, prompt: str, chain: str, source: Image | None) -> Batch:
        size = self.size if source is None else (source.shape[-2], source.shape[-1])
        samples: Sequence[Sample] = [Sample(prompt=prompt, chain=chain, size=size, source=source)]
        return self.system.reasoner.processor(samples).to(self.system.device)


def load_system(path: str | Path) -> GoTSystem:
    """The system of a run's folder (its newest checkpoint), of a checkpoint in it, or of an imported folder.

    Raises:
        FileNotFoundError: There is no such run or checkpoint.
        UserError: The recipe or the checkpoint is not of a GoTSystem, or does not fit it.
    """
    run, checkpoint = find_checkpoint(path)
    system = build_model(read_recipe(run.recipe).get("model") or {})
    if not isinstance(system, GoTSystem):
        raise UserError(f"{path}: {type(system).__name__} draws nothing; a GoTSystem is needed")
    load_weights(system, checkpoint)
    return system


def trained_size(settings: Any) -> tuple[int, int] | None:
    """(height, width) of the first `size` or `image_size` among a recipe's data settings, at any depth."""
    if isinstance(settings, dict):
        for name in ("size", "image_size"):
            value = settings.get(name)
            if isinstance(value, int):
                return value, value
            if isinstance(value, list | tuple) and len(value) == 2:
                return int(value[0]), int(value[1])
    children = settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ()
    return next((size for child in children if (size := trained_size(child)) is not None), None)


def default_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")
