"""GoTPipeline: plans images in words and boxes, draws them and edits them; called as the pipelines of diffusers are."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Unpack

from jaxtyping import Float
from torch import Generator, Tensor

from got_core.data.images import OneOrMore, Picture, image_tensor
from got_core.interfaces import ChainListener
from got_core.keeping import Former, StillRest, kept_of
from got_core.noise import sample_seeds, seeded, starting_noise
from got_core.pipeline_arguments import (
    DrawingOptions,
    Seed,
    check_drawing,
    check_temperature,
    image_size,
    one_each,
    pictures_of,
    seeds_of,
    several,
    whole,
)
from got_core.pipeline_output import GoTPipelineOutput, Pictures, as_pictures
from got_core.plan_choice import SAMPLED_AT, choose_plans
from got_core.plans import Plan
from got_core.sampling import GuidanceScales
from got_core.stored_pipeline import StoredPipeline
from got_core.types import Batch

StepCallback = Callable[["GoTPipeline", int, Tensor, dict[str, Any]], dict[str, Any] | None]
"""As in diffusers: called with the pipeline, the step, its time and {"latents": ...}; may return such a dictionary."""


class GoTPipeline(StoredPipeline):
    """Plans and draws with a system; deterministic for a seed.

    Args:
        system: A trained system; put into evaluation mode.
        size: (height, width) in pixels of images unless a call says otherwise.
        settings: What the system was built from: the part of a recipe under `model`; needed to save it.
    """

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
        **drawing: Unpack[DrawingOptions],
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
            drawing: Further arguments of `draw`.
        """
        number = whole(num_images_per_prompt, "num_images_per_prompt")
        prompts = [text for text in several(prompt) for _ in range(number)]
        check_drawing(drawing, len(prompts))
        plans = self.plan(
            prompts,
            height=height,
            width=width,
            temperature=temperature,
            best_of=best_of,
            seed=seed,
        )
        return self.draw(plans, seed=seed, **drawing)

    def edit(
        self,
        image: OneOrMore,
        instruction: str | Sequence[str],
        *,
        height: int | None = None,
        width: int | None = None,
        temperature: float = 0.0,
        best_of: int = 1,
        seed: Seed = 0,
        **drawing: Unpack[DrawingOptions],
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
        check_drawing(drawing, len(several(instruction)))
        plans = self.plan(
            instruction, image, height=height, width=width, temperature=temperature, best_of=best_of, seed=seed
        )
        return self.draw(plans, seed=seed, **drawing)

    def plan(
        self,
        prompt: str | Sequence[str],
        image: OneOrMore | None = None,
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
        pictures = [None] * len(prompts) if image is None else pictures_of(image, len(prompts))
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
            reasoning = self.system.plan(self._batch(plans), temperature=warmth, seed=seeds, listener=hears)
            return [plan.with_chain(chain) for plan, chain in zip(plans, reasoning.chains, strict=True)]

        def further(places: Sequence[int]) -> list[Plan]:
            turns = (places[:turn].count(place) + 1 for turn, place in enumerate(places))
            others = [sample_seeds(seeds[place], turn + 1)[turn] for place, turn in zip(places, turns, strict=True)]
            return written([plans[place] for place in places], others, temperature or SAMPLED_AT)

        return choose_plans(written(plans, seeds, temperature, listener), best_of, further)

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
        keep: Former | None = None,
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
                for the plans' boxes; the source of an edit, say. See `got_core.keeping`.
            seed: Of the noise, which depends on a plan's place among them; or one for each plan.
            generator: Instead of seeds: one for all plans in turn, or one for each.
            output_type: "pil", "pt" or "np": see `Pictures`.
            callback_on_step_end: See `StepCallback`; the latents it returns are gone on with.

        Raises:
            ValueError: No plans, of different sizes, or not as many seeds, generators or former pictures.
        """
        plans = [plan] if isinstance(plan, Plan) else list(plan)
        scales = {"semantic": semantic_scale, "spatial": spatial_scale, "reference": reference_scale}
        asked = {f"{name}_scale": scale for name, scale in scales.items()}
        named = {"num_inference_steps": num_inference_steps, "generator": generator, "output_type": output_type}
        check_drawing({**asked, **named}, len(plans))
        batch = self._batch(plans)
        seeds = None if generator is not None else tuple(seeds_of(seed, len(plans)))
        generators = seeded(seeds) if seeds is not None else one_each(generator, len(plans), Generator, "generators")
        noise = starting_noise(generators, self.system.latent_shape(batch.size)).to(self.system.device)
        scheduler = deepcopy(self.scheduler)
        parts = self.system.codec, self.system.objective, scheduler, noise
        still = None if keep is None else StillRest(kept_of(plans, keep), *parts)

        def after_step(step: int, time: Tensor, latents: Tensor) -> Tensor:
            latents = latents if still is None else still.after_step(step, latents)
            if callback_on_step_end is None:
                return latents
            returned = callback_on_step_end(self, step, time, {"latents": latents}) or {}
            return returned.get("latents", latents)

        drawing = self.system.draw(
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
        return GoTPipelineOutput(as_pictures(images, output_type), tuple(plans), seeds)

    def preview(self, latents: Float[Tensor, "b c h w"]) -> Pictures:
        """Latents, such as a callback is given, as images."""
        return as_pictures(self.system.codec.decode(latents), "pil")

    def _scales(self, batch: Batch, asked: Mapping[str, float | None]) -> GuidanceScales:
        """The system's own guidance scales, but for those that are asked for."""
        changed = {name: scale for name, scale in asked.items() if scale is not None}
        own = (replace(each, **changed) for each in (self.system.editing_scales, self.system.generation_scales))
        return GuidanceScales.choose(batch.has_source, *own)

    def _batch(self, plans: Sequence[Plan]) -> Batch:
        return self.system.processor([plan.sample() for plan in plans]).to(self.system.device)
