"""GoTPipeline: plans images in words and boxes, generates and edits them; called like the pipelines of diffusers."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack, cast

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from tqdm.auto import tqdm

from got_core.chain.dialects import from_json
from got_core.data.images import ImageLike, ImagesLike, image_tensor
from got_core.diffusion.sampling import GuidanceScales, sample_seeds, seeded, starting_noise
from got_core.diffusion.schedulers import check_scheduler, read_scheduler
from got_core.errors import UserError, check_text
from got_core.interfaces import ChainListener, Scheduler
from got_core.model import PARTS, GoTModel
from got_core.paths import BUNDLED_MODEL
from got_core.pipelines.calls import (
    LATENT,
    PLANNING,
    SCALES,
    STEP_TENSORS,
    GenerationOptions,
    GoTPipelineOutput,
    OutputImages,
    Returned,
    Seed,
    check_latents,
    check_options,
    default_device,
    one_each,
    one_image_each,
    one_seed_each,
    positive_integer,
    prompt_list,
    proportionate,
    to_output_type,
    warn_if_far,
)
from got_core.pipelines.inpainting import LatentBlending, inpainting_inputs
from got_core.pipelines.offloading import ComponentOffload, LayerOffload
from got_core.pipelines.saving import OpenedModel, local_path, open_model, save_pipeline, upload
from got_core.planning.check import SAMPLED_AT, choose_plans
from got_core.planning.plan import Plan, check_chain, check_prompt
from got_core.types import Batch, Reasoning, Step


class GoTPipeline:
    """Plans and generates with a model; deterministic for a seed.

    Args:
        model: A trained model; put into evaluation mode.
        size: (height, width) of images in pixels unless a call says otherwise.
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
        self._trained_size = size
        self._progress_bar: dict[str, Any] = {}
        self._reader = object()
        self._offload: ComponentOffload | LayerOffload | None = None

    def __repr__(self) -> str:
        kinds = (f"  {name}={type(part).__name__}," for name, part in self.components.items())
        height, width = self.size
        return "\n".join(
            ("GoTPipeline(", *kinds, f"  size={height}x{width}, device={self.device}, dtype={self.dtype}", ")")
        )

    @property
    def components(self) -> dict[str, Any]:
        """The model's parts and the scheduler, by name."""
        model = self.model
        parts = {name: getattr(model, name) for name in (*PARTS, "objective")}
        return parts | {"scheduler": self.scheduler}

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the backbone's weights that are not in 8 or 4 bits."""
        return next(weight.dtype for weight in self.model.backbone.parameters() if weight.is_floating_point())

    def set_progress_bar_config(self, **settings: Any) -> None:
        """Set arguments of the bar of denoising steps, which is tqdm's; `disable=True` shows none."""
        self._progress_bar = settings

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler that images are sampled with, by default the objective's own; each call uses a copy.

        Any scheduler of diffusers that fits the objective may be set (ValueError otherwise); `scheduler_named` makes
        them. It is saved with the pipeline.
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
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        bits: int | None = None,
        trust_code: str | Path | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> "GoTPipeline":
        """Open a run's folder (its newest checkpoint), a checkpoint in it, an imported or saved folder, or a hub id.

        Averaged weights are loaded where the run averaged them. Only components and plain values are read from a
        recipe (`got_core.config`), and from the hub only what `save_pretrained` has written.

        Args:
            path: Folder, checkpoint or hub id; by default the small bundled model of coloured shapes.
            device: Where to run; by default the accelerator if there is one.
            size: (height, width) of images in pixels; by default that of the training data.
            dtype: Precision of the weights, such as `torch.bfloat16`; by default the recipe's. The codec keeps its own,
                since some autoencoders overflow in half precision.
            torch_dtype: The same under the name that diffusers has for it.
            bits: 8 or 4: linear layers of reasoner and backbone take less memory, and images differ a little. Needs
                `pip install "got-framework[quantized]"`.
            trust_code: A folder of Python files that component classes may be in, beside installed packages. Its code
                runs; a model's folder cannot ask for this.
            revision, token, cache_dir, local_files_only: Of the hub, as in `huggingface_hub.snapshot_download`.

        Raises:
            FileNotFoundError: There is no such run or checkpoint, here or on the hub.
            UserError: The recipe or the checkpoint is not of a GoTModel, names something that models are not opened
                with, or does not fit.
            ValueError: Two precisions, one that is no floating-point type, or other bits than 8 or 4.
        """
        if None not in (dtype, torch_dtype):
            raise ValueError("dtype and torch_dtype are two names of one argument: give one of the two")
        hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        folder, downloaded = local_path(path, **hub)
        opened = open_model(folder, downloaded, trust_code, dtype or torch_dtype, bits)
        trained_size = opened.size or size
        if trained_size is None:
            raise UserError(f"{path} does not say how large its images are: give a size")
        scheduler = read_scheduler(opened.model.objective, folder)
        pipeline = cls(opened.model.to(device or default_device()), trained_size, dict(opened.settings))
        pipeline.size = size or trained_size
        if scheduler is not None:
            pipeline.scheduler = scheduler
        return pipeline

    def save_pretrained(self, save_directory: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write a self-contained folder for `from_pretrained`: configurations, safetensors and a model card.

        Args:
            save_directory: A new folder; it appears complete or not at all.
            dtype: Of the weights in the file; by default that of the model.

        Raises:
            UserError: The folder already exists or cannot be written to, the pipeline was made from a model without
                its settings, or its scheduler is not one of diffusers.
        """
        self._save(save_directory, dtype)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        commit_message: str = "Upload GoTPipeline",
    ) -> str:
        """Save into a repository of the Hugging Face hub, created if necessary; returns the address of the commit.

        Raises:
            UserError: As `save_pretrained`; or the hub refuses or cannot be reached.
        """
        with TemporaryDirectory() as parent:
            folder = Path(parent) / repo_id.split("/")[-1]
            self._save(folder, None, repo_id)
            return upload(folder, repo_id, private, token, commit_message)

    def to(
        self, device: torch.device | torch.dtype | str | None = None, dtype: torch.dtype | None = None
    ) -> "GoTPipeline":
        """Move to another device, or to another precision as in `from_pretrained`, or both; returns the pipeline.

        As in diffusers the precision may also be the only argument: `pipe.to(torch.bfloat16)`. Offloading ends.
        """
        self._end_offload()
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype is not None:
            self.model.convert(dtype)
        self.model.to(device)
        return self

    def enable_model_cpu_offload(self, device: torch.device | str | None = None) -> None:
        """Keep all weights in host memory, and on a device only those of the component that computes.

        Open the model with `device="cpu"` for this, so that it is never on the device as a whole, and not in 8 or 4
        bits (ValueError). Results are the same. `to` and `save_pretrained` end it.

        Args:
            device: Computes; by default the accelerator.
        """
        self._end_offload()
        self._offload = ComponentOffload(self.model, torch.device(device or default_device()))

    def enable_sequential_cpu_offload(
        self, device: torch.device | str | None = None, folder: str | Path | None = None
    ) -> None:
        """Keep all weights in host memory or on disk, and on a device only those of the layer that computes.

        Much slower than `enable_model_cpu_offload`, and with the least memory on the device; otherwise like it.

        Args:
            device: Computes; by default the accelerator.
            folder: Gets the weights, as files that are read layer by layer; by default they stay in host memory.
        """
        self._end_offload()
        self._offload = LayerOffload(self.model, torch.device(device or default_device()), folder)

    def enable_vae_tiling(self) -> None:
        """Encode and decode large images in tiles, so that memory hardly grows with them (ValueError: it cannot)."""
        self.model.codec.enable_tiling()

    def enable_vae_slicing(self) -> None:
        """Encode and decode the images of a batch one by one (ValueError: the codec cannot)."""
        self.model.codec.enable_slicing()

    def _end_offload(self) -> None:
        if self._offload is not None:
            self._offload.remove()
        self._offload = None
        self._reader = object()  # States that plans have are those of before.

    def _save(self, folder: str | Path, dtype: torch.dtype | None, address: str | None = None) -> None:
        if self._settings is None:
            raise UserError("this pipeline was made without `settings`, from which its model could be built again")
        self._end_offload()
        save_pipeline(OpenedModel(self.model, self._settings, self.size), folder, dtype, address, self._set_scheduler)

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        temperature: float = 0.0,
        best_of: int = 1,
        seed: Seed = None,
        **options: Unpack[GenerationOptions],
    ) -> Returned:
        """Plan and generate images from prompts.

        Args:
            prompt: One or several.
            height, width: Of the images in pixels.
            num_images_per_prompt: Images of each prompt; they differ in their noise, and in their plans above
                temperature 0.
            temperature: Of the plans; 0 is greedy.
            best_of: Plans of each image to choose from, as in `write`.
            seed: Of noise and plans; or one for each image. With generators of the noise, plans are those of seed 0.
            options: As in `generate`.
        """
        number = positive_integer(num_images_per_prompt, "num_images_per_prompt")
        prompts = [text for text in prompt_list(prompt) for _ in range(number)]
        check_options(options, len(prompts), seed, (*PLANNING, "num_images_per_prompt"))
        check_latents(options, (len(prompts), *self.model.latent_shape(self._pixels(height, width) or self.size)))
        plans = self.plan(prompts, height=height, width=width, temperature=temperature, best_of=best_of, seed=seed)
        return self.generate(plans, seed=seed, **options)

    def edit(
        self,
        image: ImagesLike,
        instruction: str | Sequence[str],
        *,
        height: int | None = None,
        width: int | None = None,
        temperature: float = 0.0,
        best_of: int = 1,
        seed: Seed = None,
        **options: Unpack[GenerationOptions],
    ) -> Returned:
        """Plan and generate edits of images.

        Args:
            image: One or several, of any size.
            instruction: One for each image, or several for one image.
            height, width: Of the images in pixels; by default in the proportions of the one to edit.
            temperature, best_of, seed, options: As in `__call__`.
        """
        if image is None:
            raise ValueError("an edit needs an image")
        count = len(prompt_list(instruction))
        check_options(options, count, seed, PLANNING)
        first = self.given_plan("", "", one_image_each(image, count)[0], self._pixels(height, width))
        check_latents(options, (count, *self.model.latent_shape(first.size)))
        planning: Any = {"height": height, "width": width, "temperature": temperature, "best_of": best_of}
        return self.generate(self.plan(instruction, image, seed=seed, **planning), seed=seed, **options)

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
        """Write the reasoning chains of prompts, or of instructions with the images to edit.

        Args:
            prompt: One or several.
            image: One for all of them, or one for each.
            height, width: Of the images to generate, in pixels.
            temperature, best_of, seed, listener: As in `write`.
            earlier: Requests of the turns before, if the prompts continue a conversation.

        Raises:
            ValueError: No prompt, not as many images as instructions, or a size that the model cannot generate.
        """
        prompts = prompt_list(prompt)
        size = self._pixels(height, width)
        images = [None] * len(prompts) if image is None else one_image_each(image, len(prompts))
        requests = tuple(prompt_list(earlier)) if earlier else ()
        for request in requests:
            check_prompt(request)
        plans = [
            replace(self.given_plan("", text, each, size), earlier=requests)
            for text, each in zip(prompts, images, strict=True)
        ]
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
        """Write the chains of plans of one size again.

        Args:
            plans: The requests; their present chains are not read.
            temperature: 0 is greedy; above, chains are sampled.
            best_of: Where the check of plans finds a problem, `best_of` - 1 more chains are sampled, at `SAMPLED_AT` if
                the first was greedy. The plan with the fewest problems is returned, of several the first.
            seed: Of sampled chains, which depend on a plan's index among them; or one for each plan.
            listener: Called with the first chains so far after each token.

        Raises:
            ValueError: `best_of` is below 1, the temperature below 0, or not as many seeds as plans.
        """
        positive_integer(best_of, "best_of")
        if not (isfinite(temperature) and temperature >= 0):
            raise ValueError(f"temperature must be 0 or more, not {temperature}")
        seeds = one_seed_each(seed, len(plans))

        def written(
            plans: Sequence[Plan], seeds: Sequence[int], temperature: float, listener: ChainListener | None = None
        ) -> list[Plan]:
            # Equal requests have equal chains unless these are sampled: each is written once.
            firsts: dict[Plan | int, int] = {}
            keys = plans if temperature == 0 else range(len(plans))
            places = [firsts.setdefault(key, len(firsts)) for key in keys]
            own = [places.index(place) for place in range(len(firsts))]

            def heard(chains: tuple[str, ...]) -> None:
                listener(tuple(chains[place] for place in places))

            reasoning = self.model.plan(
                self._batch([plans[index] for index in own]),
                temperature=temperature,
                seed=[seeds[index] for index in own],
                listener=None if listener is None else heard,
            )
            made = [plans[index].with_chain(chain) for index, chain in zip(own, reasoning.chains, strict=True)]
            made = self._remember(made, reasoning)
            return [made[place] for place in places]

        def sampled_again(indices: Sequence[int]) -> list[Plan]:
            """Sample a chain for each of these plans, the n-th time of a plan from the n-th seed after its own."""
            times = [indices[:position].count(index) + 1 for position, index in enumerate(indices)]
            others = [sample_seeds(seeds[index], n + 1)[n] for index, n in zip(indices, times, strict=True)]
            return written([plans[index] for index in indices], others, temperature or SAMPLED_AT)

        return choose_plans(written(plans, seeds, temperature, listener), best_of, sampled_again)

    def given_plan(
        self, chain: str, prompt: str = "", image: ImageLike | None = None, size: tuple[int, int] | None = None
    ) -> Plan:
        """Make a plan of a given chain instead of one that the reasoner writes.

        Args:
            chain: In any form that `got_core.chain` reads.
            prompt: Caption or instruction.
            image: The image to edit, of any size.
            size: (height, width) in pixels; by default the pipeline's, of an edit in the image's proportions.

        Raises:
            ValueError: Chain or prompt is no text (a NUL, half of a character) or too long, or the size is impossible.
        """
        source = None if image is None else image_tensor(image)
        own = self.size if source is None else (source.shape[1], source.shape[2])
        size = size or proportionate(own, self.size, self.model.pixel_multiple)
        self.model.check_size(size)
        warn_if_far(size, self._trained_size)
        check_prompt(check_text(prompt))
        check_chain(check_text(chain))
        return Plan(prompt, from_json(chain), size, source)

    def generate(
        self, plan: Plan | Sequence[Plan], *, seed: Seed = None, **options: Unpack[GenerationOptions]
    ) -> Returned:
        """Generate images from plans, which may have been changed by hand.

        Args:
            plan: One or several, of one size.
            seed: Of the noise, which depends on a plan's index among them; or one for each plan.
            options: These, all optional:

                - num_inference_steps: Denoising steps, in place of the model's own.
                - guidance_interval: First and last time, from 0 (clean) to 1000 (noise), at which there is guidance, in
                  place of the model's own.
                - exact: The full procedure, all steps and guidance at all times, where the model has a fast one
                  (`GoTModel.fast`).
                - semantic_scale, spatial_scale, reference_scale: Guidance scales, in place of the model's own.
                - keep: A previous output, of which only what has changed in the plans is generated again; or images
                  that are kept except for the plans' boxes, such as the source of an edit. See
                  `got_core.pipelines.inpainting`.
                - generator: In place of seeds: one that is used for all plans in turn, or one for each.
                - latents: The noise to start from, in place of the seed's, of shape (b, c, h, w).
                - output_type: "pil" (default), "pt", "np" or "latent": see `OutputImages`.
                - return_dict: False returns the output as a tuple, whose first entry is the images.
                - callback_on_step_end: See `StepCallback`; sampling continues with the latents that it returns.
                - callback_on_step_end_tensor_inputs: Which of `STEP_TENSORS` the callback is given; all by default.

        Raises:
            TypeError: There is no such option.
            ValueError: No plans, plans of different sizes or of one that the model cannot generate, or not as many
                seeds, generators, latents or previous images.
        """
        plans = [plan] if isinstance(plan, Plan) else list(plan)
        check_options(options, len(plans), seed)
        for each in plans:
            self.model.check_size(each.size)
            check_chain(each.chain)
        if plans:
            check_latents(options, (len(plans), *self.model.latent_shape(plans[0].size)))
        batch = Batch.collate([plan.sample() for plan in plans]).to(self.device)
        generator, keep = options.get("generator"), options.get("keep")
        seeds = tuple(one_seed_each(seed, len(plans))) if generator is None else None
        generators = one_each(generator, len(plans), Generator, "generators") if seeds is None else seeded(seeds)
        latents = options.get("latents")
        if latents is None:
            latents = starting_noise(generators, self.model.latent_shape(batch.size))
        noise = latents.to(self.device)
        scheduler = deepcopy(self.scheduler)
        parts = self.model.codec, self.model.objective, scheduler, noise
        blending = None if keep is None else LatentBlending(inpainting_inputs(plans, keep), *parts)
        callback = options.get("callback_on_step_end")
        tensors = options.get("callback_on_step_end_tensor_inputs", STEP_TENSORS)

        def after_step(step: int, time: Tensor, latents: Tensor) -> Tensor:
            latents = latents if blending is None else blending.blend(step, latents)
            given = dict.fromkeys(tensors, latents)
            returned = callback(self, step, time, given) if callback is not None else None
            bar.total = len(scheduler.timesteps)  # Some schedulers make more steps than these.
            bar.update()
            return (returned or {}).get("latents", latents)

        plans, reasoning = self._read(plans)
        exact = options.get("exact", False)
        steps = options.get("num_inference_steps") or self.model.sampling(exact).steps
        with tqdm(**{"total": steps, **self._progress_bar}) as bar:
            latents, _ = self.model.generate_latents(
                batch,
                reasoning,
                steps=steps,
                guidance_interval=options.get("guidance_interval"),
                exact=exact,
                scales=self._scales(batch, options),
                noise=noise,
                generators=generators,
                scheduler=scheduler,
                callback=after_step,
            )
        output_type = options.get("output_type", "pil")
        if output_type == LATENT:
            images: OutputImages = latents
        else:
            decoded = self.model.decode(latents)
            images = to_output_type(decoded if blending is None else blending.restore_pixels(decoded), output_type)
        own_seeds = None if options.get("latents") is not None else seeds
        output = GoTPipelineOutput(images, tuple(plans), own_seeds)
        # As in diffusers; who asks for the tuple knows that it is one.
        return output if options.get("return_dict", True) else cast(Returned, output.to_tuple())

    def steps(
        self,
        prompt: str,
        image: ImageLike | None = None,
        *,
        most: int = 8,
        seed: int = 0,
        **options: Unpack[GenerationOptions],
    ) -> Iterator[GoTPipelineOutput]:
        """Generate images for one request until the reasoner adds no other: it sees each, and the next one edits it.

        So the released model carries out instructions of several steps. Of most models the first image is the last.

        Args:
            prompt: Caption or instruction.
            image: The image to edit, of any size.
            most: Images at most.
            seed: Of plans and noise.
            options: As in `generate`, without `keep`.
        """
        check_options(options, 1, seed)
        (plan,) = self.plan(prompt, image, seed=seed)
        for left in reversed(range(positive_integer(most, "most"))):
            output = self.generate(plan, seed=seed, **options)
            yield output
            if not left or not self.model.reasoner.continues(self._batch([plan]), [plan.chain])[0]:
                return
            step = Step(plan.chain, image_tensor(output.images[0]))
            (plan,) = self.write([replace(plan, chain="", steps=(*plan.steps, step))], seed=seed)

    def preview(self, latents: Float[Tensor, "b c h w"]) -> OutputImages:
        """Decode latents, such as those given to a callback, to PIL images."""
        return to_output_type(self.model.codec.decode(latents), "pil")

    def _pixels(self, height: int | None, width: int | None) -> tuple[int, int] | None:
        if height is None and width is None:
            return None
        return (
            self.size[0] if height is None else positive_integer(height, "height"),
            self.size[1] if width is None else positive_integer(width, "width"),
        )

    def _scales(self, batch: Batch, options: Mapping[str, Any]) -> GuidanceScales:
        """Choose the model's guidance scales for each sample, replaced by those in the options."""
        given = {name: scale for name in SCALES if (scale := options.get(f"{name}_scale")) is not None}
        own = (replace(scales, **given) for scales in (self.model.editing_scales, self.model.generation_scales))
        return GuidanceScales.choose(batch.has_source, *own)

    def _batch(self, plans: Sequence[Plan]) -> Batch:
        return self.model.processor([plan.sample() for plan in plans]).to(self.model.device)

    def _remember(self, plans: Sequence[Plan], reasoning: Reasoning) -> list[Plan]:
        """Return plans with the states of their chains, where reading these again would give the same."""
        rows = zip(plans, reasoning.states, reasoning.reproducible or (False,) * len(plans), strict=True)
        return [plan.with_states(self._reader, states) if same else plan for plan, states, same in rows]

    def _read(self, plans: Sequence[Plan]) -> tuple[list[Plan], Reasoning]:
        """Return the states of plans, of which only those without any are read, and the plans with these."""
        read = list(plans)
        known = {index: plan.states(self._reader) for index, plan in enumerate(plans)}
        rows = {index: (states, plans[index].chain) for index, states in known.items() if states is not None}
        if unread := [index for index in range(len(plans)) if index not in rows]:
            own = [plans[index] for index in unread]
            reasoning = self.model.read(self._batch(own), [plan.chain for plan in own])
            rows |= zip(unread, zip(reasoning.states, reasoning.chains, strict=True), strict=True)
            for index, plan in zip(unread, self._remember(own, reasoning), strict=True):
                read[index] = plan
        states, chains = zip(*(rows[index] for index in range(len(plans))), strict=True)
        return read, Reasoning(torch.stack(states), chains)
