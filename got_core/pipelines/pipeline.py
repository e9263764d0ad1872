"""GoTPipeline: plans images in words and boxes, generates and edits them; called like the pipelines of diffusers."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from math import isfinite
from operator import index
from pathlib import Path
from typing import Any, SupportsIndex, TypedDict, Unpack

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from got_core.data.images import ImageLike, ImagesLike, image_tensor
from got_core.diffusion.sampling import GuidanceScales, sample_seeds, seeded, starting_noise
from got_core.diffusion.schedulers import check_scheduler, read_scheduler
from got_core.errors import UserError
from got_core.interfaces import ChainListener, Scheduler
from got_core.model import GoTModel
from got_core.paths import BUNDLED_MODEL
from got_core.pipelines.inpainting import Previous, StillRest, kept_of
from got_core.pipelines.output import GoTPipelineOutput, OutputImages, check_output_type, to_output_type
from got_core.pipelines.saving import OpenedModel, local_folder, open_model, push_pipeline, save_pipeline
from got_core.planning.check import SAMPLED_AT, choose_plans
from got_core.planning.plan import Plan
from got_core.types import Batch

Seed = SupportsIndex | Sequence[SupportsIndex]
"""One for all images, of which each then has its own part, or one for each."""


class GenerationOptions(TypedDict, total=False):
    """Arguments of `GoTPipeline.generate` that a whole call takes too."""

    num_inference_steps: int | None
    semantic_scale: float | None
    spatial_scale: float | None
    reference_scale: float | None
    keep: Previous | None
    generator: Generator | Sequence[Generator] | None
    output_type: str
    callback_on_step_end: Callable[..., Any] | None


def check_generation(options: Mapping[str, Any], count: int) -> None:
    """See that images can be drawn as asked.

    Args:
        options: Of `GenerationOptions`.
        count: Images to be drawn.

    Raises:
        TypeError: There is no such option.
        ValueError: It has no such value.
    """
    if strange := options.keys() - GenerationOptions.__annotations__.keys():
        raise TypeError(f"no such argument: {', '.join(sorted(strange))}")
    if options.get("num_inference_steps") is not None:
        whole(options["num_inference_steps"], "num_inference_steps")
    for name in ("semantic_scale", "spatial_scale", "reference_scale"):
        if options.get(name) is not None and not isfinite(options[name]):
            raise ValueError(f"{name} must be a finite number, not {options[name]}")
    if options.get("generator") is not None:
        one_each(options["generator"], count, Generator, "generators")
    check_output_type(options.get("output_type", "pil"))


def check_temperature(temperature: float) -> None:
    """See that chains can be drawn at a temperature (ValueError otherwise)."""
    if not (isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature must be 0 or more, not {temperature}")


def whole(value: Any, name: str) -> int:
    """A whole number of at least 1.

    Raises:
        ValueError: It is none.
    """
    try:
        number = index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
    return number


def image_size(height: int | None, width: int | None, usual: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels, as asked or as usual (ValueError: no whole numbers)."""
    high, wide = usual
    return (
        high if height is None else whole(height, "height"),
        wide if width is None else whole(width, "width"),
    )


def seeds_of(seed: Any, count: int) -> list[int]:
    """A seed for each of `count` images.

    Raises:
        ValueError: No whole number, or not as many as images.
    """
    several_seeds = isinstance(seed, Sequence) or getattr(seed, "ndim", 0) > 0
    try:
        given = [index(each) for each in seed] if several_seeds else index(seed)
    except TypeError:
        raise ValueError(f"a seed is a whole number, not {seed!r}") from None
    return sample_seeds(given, count)


def several(text: str | Sequence[str]) -> list[str]:
    """One prompt or several, as a list.

    Raises:
        ValueError: There is none, or something that is no text.
    """
    texts = [text] if isinstance(text, str) or not isinstance(text, Sequence) else list(text)
    if not texts:
        raise ValueError("there is no prompt")
    for each in texts:
        if not isinstance(each, str):
            raise ValueError(f"a prompt is a text, not {each!r}")
    return texts


def one_each(given: Any, count: int, kind: type | tuple[type, ...], name: str) -> list[Any]:
    """What is given for each of `count` plans, or once for all of them.

    Args:
        given: One of `kind`, or a sequence of them.
        count: How many are needed.
        kind: What a single one is.
        name: Of the argument, for errors.

    Raises:
        ValueError: Another number is given.
    """
    each = [given] * count if isinstance(given, kind) else list(given)
    if len(each) != count:
        raise ValueError(f"{len(each)} {name} for {count} plans: give one, or one for each")
    return each


def one_image_each(image: Any, count: int) -> list[ImageLike]:
    """A picture for each of `count` plans, from one, several, or a batch as `generate` returns it.

    Raises:
        ValueError: No pictures, or another number of them.
    """
    batched = isinstance(image, Tensor | np.ndarray) and image.ndim == 4
    if isinstance(image, list | tuple) or batched:
        return one_each(list(image), count, (), "images")
    return [image] * count


def default_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")


StepCallback = Callable[["GoTPipeline", int, Tensor, dict[str, Any]], dict[str, Any] | None]
"""As in diffusers: called with the pipeline, the step, its time and {"latents": ...}; may return such a dictionary."""


class GoTPipeline:
    """Plans and generates with a model; deterministic for a seed.

    Args:
        model: A trained model; put into evaluation mode.
        size: (height, width) in pixels of images unless a call says otherwise.
        settings: What the model was built from: the part of a recipe under `model`; needed to save it.

    Example:
        >>> pipe = GoTPipeline.from_pretrained()
        >>> plan = pipe.plan("a red circle left of a blue square")[0]
        >>> image = pipe.generate(plan, seed=1).images[0]
    """

    def __init__(self, model: GoTModel, size: tuple[int, int], settings: dict[str, Any] | None = None) -> None:
        self.model = model.eval()
        self.size = size
        self._settings = settings
        self._own_scheduler = model.objective.scheduler()
        self._set_scheduler: Scheduler | None = None

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler that images are drawn with, by default the objective's own; each call uses a copy.

        Any of diffusers may be set that fits the objective (ValueError otherwise); `scheduler_named` makes them. It is
        saved with the pipeline.
        """
        return self._set_scheduler or self._own_scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Scheduler) -> None:
        check_scheduler(self.model.objective, deepcopy(scheduler))
        self._set_scheduler = None if scheduler is self._own_scheduler else scheduler

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path = BUNDLED_MODEL,
        device: torch.device | str | None = None,
        size: tuple[int, int] | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> "GoTPipeline":
        """Open a run's folder (its newest checkpoint), a checkpoint in it, an imported or saved folder, or a hub id.

        Averaged weights are loaded where the run averaged them. Only components and plain values are read of a
        recipe (`got_core.config`), and of the hub only what `save_pretrained` has written.

        Args:
            path: Folder, checkpoint or hub id; by default the small model of coloured shapes that comes along.
            device: Where to run; the best there is by default.
            size: (height, width) in pixels; that of the training data by default.
            revision, token, cache_dir, local_files_only: Of the hub, as `huggingface_hub.snapshot_download` has them.

        Raises:
            FileNotFoundError: There is no such run or checkpoint, here or on the hub.
            UserError: The recipe or the checkpoint is not of a GoTModel, names something that models are not opened
                with, or does not fit.
        """
        hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        place, fetched = local_folder(path, **hub)
        opened = open_model(place, fetched)
        size = size or opened.size
        if size is None:
            raise UserError(f"{path} does not say how large its images are: give a size")
        scheduler = read_scheduler(opened.model.objective, place)
        pipeline = cls(opened.model.to(device or default_device()), size, dict(opened.settings))
        if scheduler is not None:
            pipeline.scheduler = scheduler
        return pipeline

    def save_pretrained(self, save_directory: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write a self-contained folder for `from_pretrained`: configurations, safetensors and a model card.

        Args:
            save_directory: A new folder; it appears whole or not at all.
            dtype: Of the weights in the file; that of the system by default.

        Raises:
            UserError: There is something in that place already, it cannot be written to, or the pipeline was made from
                a system without its settings or has a scheduler that is none of diffusers'.
        """
        save_pipeline(self._opened(), save_directory, dtype, scheduler=self._set_scheduler)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        commit_message: str = "Upload GoTPipeline",
    ) -> str:
        """Save into a repository of the Hugging Face hub, which is made if need be; returns the address of the commit.

        Raises:
            UserError: As `save_pretrained`; or the hub refuses or cannot be reached.
        """
        return push_pipeline(self._opened(), repo_id, private, token, commit_message, self._set_scheduler)

    def to(self, device: torch.device | str) -> "GoTPipeline":
        """Move to another device; returns the pipeline."""
        self.model.to(device)
        return self

    def _opened(self) -> OpenedModel:
        if self._settings is None:
            raise UserError("this pipeline was made without `settings`: there is nothing to build it from again")
        return OpenedModel(self.model, self._settings, self.size)

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        temperature: float = 0.0,
        best_of: int = 1,
        seed: Seed = 0,
        **drawing: Unpack[GenerationOptions],
    ) -> GoTPipelineOutput:
        """Plan and draw images from prompts.

        Args:
            prompt: One or several.
            height, width: Of the images in pixels.
            num_images_per_prompt: Images of each prompt; they differ in their noise, and in their plans above
                temperature 0.
            temperature: Of the plans; 0 is greedy.
            best_of: Plans of each image to choose from, as in `write`.
            seed: Of noise and plans; or one for each image.
            drawing: Further arguments of `generate`.
        """
        number = whole(num_images_per_prompt, "num_images_per_prompt")
        prompts = [text for text in several(prompt) for _ in range(number)]
        check_generation(drawing, len(prompts))
        plans = self.plan(
            prompts,
            height=height,
            width=width,
            temperature=temperature,
            best_of=best_of,
            seed=seed,
        )
        return self.generate(plans, seed=seed, **drawing)

    def edit(
        self,
        image: ImagesLike,
        instruction: str | Sequence[str],
        *,
        height: int | None = None,
        width: int | None = None,
        temperature: float = 0.0,
        best_of: int = 1,
        seed: Seed = 0,
        **drawing: Unpack[GenerationOptions],
    ) -> GoTPipelineOutput:
        """Plan and draw edits of images.

        Args:
            image: One or several; resized to height and width.
            instruction: One for each image, or several for one image.
            height, width: Of the images in pixels.
            temperature, best_of, seed, drawing: As in `__call__`.
        """
        if image is None:
            raise ValueError("there is no image to edit")
        check_generation(drawing, len(several(instruction)))
        plans = self.plan(
            instruction, image, height=height, width=width, temperature=temperature, best_of=best_of, seed=seed
        )
        return self.generate(plans, seed=seed, **drawing)

    def plan(
        self,
        prompt: str | Sequence[str],
        image: ImagesLike | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        temperature: float = 0.0,
        best_of: int = 1,
        seed: Seed = 0,
        earlier: Sequence[str] = (),
        listener: ChainListener | None = None,
    ) -> list[Plan]:
        """Write the reasoning chains of prompts, or of instructions with the images to be edited.

        Args:
            prompt: One or several.
            image: One for all of them, or one for each.
            height, width: Of the images to be drawn, in pixels.
            temperature, best_of, seed, listener: As in `write`.
            earlier: What was asked in the turns before, where the prompts go on with a conversation.

        Raises:
            ValueError: No prompt, or not as many images as instructions.
        """
        prompts = several(prompt)
        size = image_size(height, width, self.size)
        pictures = [None] * len(prompts) if image is None else one_image_each(image, len(prompts))
        given = [self.given_plan("", text, each, size) for text, each in zip(prompts, pictures, strict=True)]
        before = tuple(several(earlier)) if earlier else ()
        plans = [replace(plan, earlier=before) for plan in given]
        return self.write(plans, temperature=temperature, best_of=best_of, seed=seed, listener=listener)

    def write(
        self,
        plans: Sequence[Plan],
        *,
        temperature: float = 0.0,
        best_of: int = 1,
        seed: Seed = 0,
        listener: ChainListener | None = None,
    ) -> list[Plan]:
        """Write the chains of plans of one size anew.

        Args:
            plans: What is asked; their chains are not looked at.
            temperature: 0 is greedy; above, chains are drawn.
            best_of: Where the check of plans finds a problem, so many less one are drawn besides, at `SAMPLED_AT` if
                the first was greedy; the one with the fewest problems is taken, the first of several.
            seed: Of drawn chains, which depend on a plan's place among them; or one for each plan.
            listener: Called with the first chains so far after each token.

        Raises:
            ValueError: `best_of` is below 1, the temperature below 0, or not as many seeds as plans.
        """
        whole(best_of, "best_of")
        check_temperature(temperature)
        seeds = seeds_of(seed, len(plans))

        def written(
            plans: Sequence[Plan], seeds: Sequence[int], warmth: float, hears: ChainListener | None = None
        ) -> list[Plan]:
            reasoning = self.model.plan(self._batch(plans), temperature=warmth, seed=seeds, listener=hears)
            return [plan.with_chain(chain) for plan, chain in zip(plans, reasoning.chains, strict=True)]

        def further(places: Sequence[int]) -> list[Plan]:
            turns = (places[:turn].count(place) + 1 for turn, place in enumerate(places))
            others = [sample_seeds(seeds[place], turn + 1)[turn] for place, turn in zip(places, turns, strict=True)]
            return written([plans[place] for place in places], others, temperature or SAMPLED_AT)

        return choose_plans(written(plans, seeds, temperature, listener), best_of, further)

    def given_plan(
        self, chain: str, prompt: str = "", image: ImageLike | None = None, size: tuple[int, int] | None = None
    ) -> Plan:
        """A plan of a chain that is given rather than written here.

        Args:
            chain: In any form that `got_core.chain.parser` reads.
            prompt: Caption or instruction.
            image: The image to be edited; resized.
            size: (height, width) in pixels; the pipeline's by default.
        """
        size = size or self.size
        return Plan(prompt, chain, size, None if image is None else image_tensor(image, size))

    def generate(
        self,
        plan: Plan | Sequence[Plan],
        *,
        num_inference_steps: int | None = None,
        semantic_scale: float | None = None,
        spatial_scale: float | None = None,
        reference_scale: float | None = None,
        keep: Previous | None = None,
        seed: Seed = 0,
        generator: Generator | Sequence[Generator] | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
    ) -> GoTPipelineOutput:
        """Draw plans, which may have been changed by hand.

        Args:
            plan: One or several, of one size.
            num_inference_steps: Denoising steps instead of the system's own.
            semantic_scale, spatial_scale, reference_scale: Guidance scales instead of the system's own.
            keep: A former output, of which only what has changed in the plans is drawn anew, or pictures that stay but
                for the plans' boxes; the source of an edit, say. See `got_core.pipelines.inpainting`.
            seed: Of the noise, which depends on a plan's place among them; or one for each plan.
            generator: Instead of seeds: one for all plans in turn, or one for each.
            output_type: "pil", "pt" or "np": see `OutputImages`.
            callback_on_step_end: See `StepCallback`; the latents it returns are gone on with.

        Raises:
            ValueError: No plans, of different sizes, or not as many seeds, generators or former pictures.
        """
        plans = [plan] if isinstance(plan, Plan) else list(plan)
        scales = {"semantic": semantic_scale, "spatial": spatial_scale, "reference": reference_scale}
        asked = {f"{name}_scale": scale for name, scale in scales.items()}
        named = {"num_inference_steps": num_inference_steps, "generator": generator, "output_type": output_type}
        check_generation({**asked, **named}, len(plans))
        batch = self._batch(plans)
        seeds = None if generator is not None else tuple(seeds_of(seed, len(plans)))
        generators = seeded(seeds) if seeds is not None else one_each(generator, len(plans), Generator, "generators")
        noise = starting_noise(generators, self.model.latent_shape(batch.size)).to(self.model.device)
        scheduler = deepcopy(self.scheduler)
        parts = self.model.codec, self.model.objective, scheduler, noise
        still = None if keep is None else StillRest(kept_of(plans, keep), *parts)

        def after_step(step: int, time: Tensor, latents: Tensor) -> Tensor:
            latents = latents if still is None else still.after_step(step, latents)
            if callback_on_step_end is None:
                return latents
            returned = callback_on_step_end(self, step, time, {"latents": latents}) or {}
            return returned.get("latents", latents)

        drawing = self.model.generate(
            batch,
            [plan.chain for plan in plans],
            steps=num_inference_steps,
            scales=self._scales(batch, scales),
            noise=noise,
            generators=generators,
            scheduler=scheduler,
            callback=after_step,
        )
        images = drawing.images if still is None else still.restored(drawing.images)
        return GoTPipelineOutput(to_output_type(images, output_type), tuple(plans), seeds)

    def preview(self, latents: Float[Tensor, "b c h w"]) -> OutputImages:
        """Latents, such as a callback is given, as images."""
        return to_output_type(self.model.codec.decode(latents), "pil")

    def _scales(self, batch: Batch, asked: Mapping[str, float | None]) -> GuidanceScales:
        """The system's own guidance scales, but for those that are asked for."""
        changed = {name: scale for name, scale in asked.items() if scale is not None}
        own = (replace(each, **changed) for each in (self.model.editing_scales, self.model.generation_scales))
        return GuidanceScales.choose(batch.has_source, *own)

    def _batch(self, plans: Sequence[Plan]) -> Batch:
        return self.model.processor([plan.sample() for plan in plans]).to(self.model.device)
