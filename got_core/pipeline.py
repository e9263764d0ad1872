"""GoTPipeline: plans images in words and boxes, draws them and edits them; called as the pipelines of diffusers are."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Generator, Tensor

from got_core.data.images import Picture, image_tensor
from got_core.errors import UserError
from got_core.interfaces import ChainListener, Scheduler
from got_core.noise import sample_seeds, seeded, starting_noise
from got_core.paths import BUNDLED_MODEL
from got_core.pipeline_hub import local_folder, push_pipeline, save_pipeline
from got_core.pipeline_output import GoTPipelineOutput, Pictures, as_pictures
from got_core.plans import Plan
from got_core.sampling import GuidanceScales
from got_core.schedulers import check_scheduler
from got_core.system import GoTSystem
from got_core.system_files import OpenedSystem, open_system
from got_core.types import Batch

StepCallback = Callable[["GoTPipeline", int, int, dict[str, Any]], dict[str, Any]]
"""As in diffusers: called with the pipeline, the step, its time and {"latents": ...}; returns such a dictionary."""


class GoTPipeline:
    """Plans and draws with a system; deterministic for a seed.

    Args:
        system: A trained system; put into evaluation mode.
        size: (height, width) in pixels of images unless a call says otherwise.
        settings: What the system was built from: the part of a recipe under `model`; needed to save it.
    """

    def __init__(self, system: GoTSystem, size: tuple[int, int], settings: dict[str, Any] | None = None) -> None:
        self.system = system.eval()
        self.size = size
        self._settings = settings
        self._scheduler = system.objective.scheduler()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path = BUNDLED_MODEL,
        device: torch.device | str | None = None,
        size: tuple[int, int] | None = None,
        **hub: Any,
    ) -> "GoTPipeline":
        """Open a run's folder (its newest checkpoint), a checkpoint in it, an imported or saved folder, or a hub id.

        Averaged weights are loaded where the run averaged them.

        Args:
            path: Folder, checkpoint or hub id; by default the small model of coloured shapes that comes along.
            device: Where to run; the best there is by default.
            size: (height, width) in pixels; that of the training data by default.
            hub: Arguments of `huggingface_hub.snapshot_download`, such as `revision`, `token` and `cache_dir`.

        Raises:
            FileNotFoundError: There is no such run or checkpoint, here or on the hub.
            UserError: The recipe or the checkpoint is not of a GoTSystem, or does not fit it.
        """
        opened = open_system(local_folder(path, **hub))
        size = size or opened.size
        if size is None:
            raise UserError(f"{path} does not say how large its images are: give a size")
        return cls(opened.system.to(device or default_device()), size, dict(opened.settings))

    def save_pretrained(self, path: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a self-contained folder for `from_pretrained`: configurations, safetensors and a model card.

        Args:
            path: A new folder; it appears whole or not at all.
            dtype: Of the weights in the file; that of the system by default.

        Raises:
            UserError: There is something in that place already, it cannot be written to, or the pipeline was made from
                a system without its settings.
        """
        save_pipeline(self._opened(), path, dtype)

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Save into a repository of the Hugging Face hub, which is made if need be; returns the address of the commit.

        Raises:
            UserError: As `save_pretrained`; or the hub refuses.
        """
        return push_pipeline(self._opened(), repository, private, token)

    def to(self, device: torch.device | str) -> "GoTPipeline":
        """Move to another device; returns the pipeline."""
        self.system.to(device)
        return self

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler that images are drawn with; each call uses a copy.

        Any of diffusers may be set that fits the objective (ValueError otherwise); `scheduler_named` makes them.
        """
        return self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Scheduler) -> None:
        check_scheduler(self.system.objective, deepcopy(scheduler))
        self._scheduler = scheduler

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        temperature: float = 0.0,
        seed: int | Sequence[int] = 0,
        **drawing: Any,
    ) -> GoTPipelineOutput:
        """Plan and draw images from prompts.

        Args:
            prompt: One or several.
            height, width: Of the images in pixels.
            num_images_per_prompt: Images of each prompt; they differ in their noise, and in their plans above
                temperature 0.
            temperature: Of the plans; 0 is greedy.
            seed: Of noise and plans; or one for each image.
            drawing: Further arguments of `draw`.
        """
        plans = self.plan(
            [text for text in _several(prompt) for _ in range(num_images_per_prompt)],
            height=height,
            width=width,
            temperature=temperature,
            seed=seed,
        )
        return self.draw(plans, seed=seed, **drawing)

    def edit(
        self,
        image: Picture | Sequence[Picture],
        instruction: str | Sequence[str],
        *,
        height: int | None = None,
        width: int | None = None,
        temperature: float = 0.0,
        seed: int | Sequence[int] = 0,
        **drawing: Any,
    ) -> GoTPipelineOutput:
        """Plan and draw edits of images.

        Args:
            image: One or several; resized to height and width.
            instruction: One for each image, or several for one image.
            height, width: Of the images in pixels.
            temperature, seed, drawing: As in `__call__`.
        """
        plans = self.plan(instruction, image, height=height, width=width, temperature=temperature, seed=seed)
        return self.draw(plans, seed=seed, **drawing)

    def plan(
        self,
        prompt: str | Sequence[str],
        image: Picture | Sequence[Picture] | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        temperature: float = 0.0,
        seed: int | Sequence[int] = 0,
        earlier: Sequence[str] = (),
        listener: ChainListener | None = None,
    ) -> list[Plan]:
        """Write the reasoning chains of prompts, or of instructions with the images to be edited.

        Args:
            prompt: One or several.
            image: One for all of them, or one for each.
            height, width: Of the images to be drawn, in pixels.
            temperature: 0 is greedy; above, chains are drawn.
            seed: Of drawn chains; of several the first.
            earlier: What was asked in the turns before, where the prompts go on with a conversation.
            listener: Called with the chains so far after each token.

        Raises:
            ValueError: No prompt, or not as many images as instructions.
        """
        prompts = _several(prompt)
        size = (height or self.size[0], width or self.size[1])
        pictures = _one_each(image, len(prompts), (Image.Image, Tensor, NoneType), "images")
        given = [self.given_plan("", text, each, size) for text, each in zip(prompts, pictures, strict=True)]
        plans = [replace(plan, earlier=tuple(earlier)) for plan in given]
        first = seed if isinstance(seed, int) else seed[0]
        reasoning = self.system.plan(self._batch(plans), temperature=temperature, seed=first, listener=listener)
        return [plan.with_chain(chain) for plan, chain in zip(plans, reasoning.chains, strict=True)]

    def given_plan(
        self, chain: str, prompt: str = "", image: Picture | None = None, size: tuple[int, int] | None = None
    ) -> Plan:
        """A plan of a chain that is given rather than written here.

        Args:
            chain: In any form that `got_core.chain` reads.
            prompt: Caption or instruction.
            image: The image to be edited; resized.
            size: (height, width) in pixels; the pipeline's by default.
        """
        size = size or self.size
        return Plan(prompt, chain, size, None if image is None else image_tensor(image, size))

    def draw(
        self,
        plan: Plan | Sequence[Plan],
        *,
        num_inference_steps: int | None = None,
        semantic_scale: float | None = None,
        spatial_scale: float | None = None,
        reference_scale: float | None = None,
        seed: int | Sequence[int] = 0,
        generator: Generator | Sequence[Generator] | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
    ) -> GoTPipelineOutput:
        """Draw plans, which may have been changed by hand.

        Args:
            plan: One or several, of one size.
            num_inference_steps: Denoising steps instead of the system's own.
            semantic_scale, spatial_scale, reference_scale: Guidance scales instead of the system's own.
            seed: Of the noise, which depends on a plan's place among them; or one for each plan.
            generator: Instead of seeds: one for all plans in turn, or one for each.
            output_type: "pil", "pt" or "np": see `Pictures`.
            callback_on_step_end: See `StepCallback`; the latents it returns are gone on with.

        Raises:
            ValueError: No plans, of different sizes, or not as many seeds or generators.
        """
        plans = [plan] if isinstance(plan, Plan) else list(plan)
        batch = self._batch(plans)
        seeds = None if generator is not None else tuple(sample_seeds(seed, len(plans)))
        generators = seeded(seeds) if seeds is not None else _one_each(generator, len(plans), Generator, "generators")
        scales = {"semantic": semantic_scale, "spatial": spatial_scale, "reference": reference_scale}
        changed = {name: scale for name, scale in scales.items() if scale is not None}
        own = (replace(each, **changed) for each in (self.system.editing_scales, self.system.generation_scales))

        def after_step(step: int, time: Tensor, latents: Tensor) -> Tensor | None:
            if callback_on_step_end is None:
                return None
            return callback_on_step_end(self, step, int(time), {"latents": latents}).get("latents")

        drawing = self.system.draw(
            batch,
            [plan.chain for plan in plans],
            steps=num_inference_steps,
            scales=GuidanceScales.choose(batch.has_source, *own),
            noise=starting_noise(generators, self.system.latent_shape(batch.size)).to(self.system.device),
            scheduler=deepcopy(self.scheduler),
            callback=after_step,
        )
        return GoTPipelineOutput(as_pictures(drawing.images, output_type), tuple(plans), seeds)

    def preview(self, latents: Float[Tensor, "b c h w"]) -> Pictures:
        """Latents, such as a callback is given, as images."""
        return as_pictures(self.system.codec.decode(latents), "pil")

    def _batch(self, plans: Sequence[Plan]) -> Batch:
        return self.system.processor([plan.sample() for plan in plans]).to(self.system.device)

    def _opened(self) -> OpenedSystem:
        if self._settings is None:
            raise UserError("this pipeline was made without `settings`: there is nothing to build it from again")
        return OpenedSystem(self.system, self._settings, self.size)


def default_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")


def _several(text: str | Sequence[str]) -> list[str]:
    texts = [text] if isinstance(text, str) else list(text)
    if not texts:
        raise ValueError("there is no prompt")
    return texts


def _one_each(given: Any, count: int, kind: type | tuple[type, ...], name: str) -> list[Any]:
    """What is given for each of `count` plans, or once for all of them."""
    each = [given] * count if isinstance(given, kind) else list(given)
    if len(each) != count:
        raise ValueError(f"{len(each)} {name} for {count} plans: give one, or one for each")
    return each
