"""Inpainting: only the changed boxes change; the rest is the previous image's at every noise level and at the end."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_system import small_settings, stirred_system

from got_core.diffusion.codecs import PixelCodec
from got_core.diffusion.objectives import EpsilonDiffusion, RectifiedFlow
from got_core.diffusion.schedulers import scheduler_named
from got_core.pipelines.inpainting import (
    InpaintingInput,
    LatentBlending,
    changed_boxes,
    inpainting_inputs,
    inpainting_mask,
)
from got_core.pipelines.pipeline import GoTPipeline
from got_core.planning.plan import Plan

CHAIN = "a red circle (0,0),(240,240) (red) and a blue square (600,600),(990,990) (blue)."
PLAN = Plan("two objects", CHAIN, (32, 32))
CORNER = (slice(0, 12), slice(0, 12))
"""The pixels that the first box and its margin touch: two cells and one, four pixels wide each."""


@pytest.fixture(scope="module", params=["scenes_dit", "scenes_sdxl"])
def pipe(request):
    if request.param == "scenes_dit":
        return GoTPipeline(stirred_system().model, (32, 32))
    settings = small_settings()
    settings["init_args"]["objective"] = {
        "class_path": "got_core.diffusion.objectives.EpsilonDiffusion",
        "init_args": {"schedule": "squaredcos_cap_v2", "prediction": "v_prediction"},
    }
    return GoTPipeline(stirred_system(settings).model, (32, 32))


def pixels(output):
    return np.asarray(output.images[0], dtype=int)


def test_changed_boxes_are_those_that_only_one_plan_has():
    assert changed_boxes(PLAN, PLAN) == ()
    assert changed_boxes(PLAN, PLAN.recolour(0, "green")) == ((0, 0, 240, 240), (0, 0, 240, 240))
    assert set(changed_boxes(PLAN, PLAN.move(1, dx=-600))) == {(600, 600, 990, 990), (0, 600, 390, 990)}
    assert changed_boxes(PLAN, PLAN.add("a cat", (300, 0, 400, 100))) == ((300, 0, 400, 100),)
    assert changed_boxes(PLAN, PLAN.remove(0)) == ((0, 0, 240, 240),)


def mask(*changed, unchanged=()):
    return inpainting_mask(InpaintingInput(torch.zeros(3, 32, 32), changed, unchanged), 8, 8)


def test_the_mask_has_the_box_and_a_margin():
    corner = mask((0, 0, 240, 240))
    assert corner[:3, :3].all()
    assert corner.sum() == 9
    assert mask((500, 500, 501, 501)).nonzero().tolist() == [[r, c] for r in (3, 4, 5) for c in (3, 4, 5)]
    assert not mask().any()


def test_the_margin_leaves_out_unchanged_boxes_but_the_box_does_not():
    beside = mask((0, 0, 240, 240), unchanged=((260, 0, 500, 999),))
    assert beside[:, :2].sum() == 6
    assert not beside[:, 2:].any()
    over = mask((0, 0, 300, 240), unchanged=((260, 0, 500, 999),))
    assert over[:2, :3].all()
    assert over.sum() == 8  # two columns of three cells, and two cells that the box itself reaches into


def test_a_changed_plan_keeps_the_rest_of_the_previous_image(pipe):
    previous = pipe.generate(PLAN, seed=3)
    changed = PLAN.replace(0, "a green star")
    whole, inpainted = pipe.generate(changed, seed=3), pipe.generate(changed, seed=3, keep=previous)
    outside = np.ones((32, 32), dtype=bool)
    outside[CORNER] = False
    assert (pixels(whole) != pixels(previous))[outside].any()
    assert np.array_equal(pixels(inpainted)[outside], pixels(previous)[outside])
    assert (pixels(inpainted) != pixels(previous))[~outside].any()
    assert np.array_equal(pixels(pipe.generate(PLAN, seed=3, keep=previous)), pixels(previous))


def test_an_edit_can_keep_its_source(pipe):
    source = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    plan = pipe.given_plan("a cat (0,0),(240,240)", "add a cat", source)
    edited = pixels(pipe.generate(plan, keep=source))
    assert np.array_equal(edited[12:], np.asarray(source)[12:])
    assert (edited[CORNER] != np.asarray(source)[CORNER]).any()


def test_one_previous_image_for_each_plan():
    images = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    plans = [PLAN, PLAN.remove(0)]
    inputs = inpainting_inputs(plans, images)
    assert [each.image[:, 0, 0].tolist() for each in inputs] == [[1, -1, -1], [-1, -1, 1]]
    assert [len(each.changed) for each in inputs] == [2, 1]
    assert torch.equal(inpainting_inputs(plans, images[0])[1].image, inputs[0].image)
    assert torch.equal(inpainting_inputs(plans, torch.ones(3, 32, 32))[1].image, torch.ones(3, 32, 32))
    with pytest.raises(ValueError, match="1 images for 2 plans"):
        inpainting_inputs(plans, images[:1])


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        (RectifiedFlow(shift=3.0), "FlowMatchEulerDiscreteScheduler"),
        (RectifiedFlow(), "FlowMatchHeunDiscreteScheduler"),
        (EpsilonDiffusion(), "DPMSolverMultistepScheduler"),
        (EpsilonDiffusion(), "EulerDiscreteScheduler"),
        (EpsilonDiffusion(), "DDIMScheduler"),
        (EpsilonDiffusion(prediction="v_prediction"), "UniPCMultistepScheduler"),
    ],
)
def test_blended_latents_are_at_the_noise_level_of_the_scheduler(objective, name):
    """With exact predictions the latents of each step are those that the previous image is blended in with."""
    generator = torch.Generator().manual_seed(0)
    image, noise = (torch.randn(1, 3, 8, 8, generator=generator) for _ in range(2))
    scheduler = scheduler_named(objective, name)
    scheduler.set_timesteps(12, device=torch.device("cpu"))
    blending = LatentBlending([InpaintingInput(image[0], ())], PixelCodec(), objective, scheduler, noise)
    first = scheduler.timesteps[0]
    start = objective.corrupt(image, noise, first.float()[None])[0]
    seen_as = getattr(scheduler, "scale_model_input", lambda x, time: x)
    x = start / seen_as(torch.ones_like(start), first)
    for step, time in enumerate(scheduler.timesteps):
        seen = seen_as(x, time)
        signal, of_image = objective.corrupt(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), time.float()[None])
        strength, of_noise = objective.corrupt(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), time.float()[None])
        target = of_image * image + of_noise * (seen - signal * image) / strength
        x = scheduler.step(target, time, x, return_dict=False)[0]
        blended = blending.blend(step, x)
        assert torch.allclose(blended, x, atol=0.02 * float(x.std())), step
    assert torch.equal(blended, image)
