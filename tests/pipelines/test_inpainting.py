"""Only what was changed changes: the rest is the former picture's, at every noise level and in the end."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_system import small_settings, stirred_system

from got_core.diffusion.codecs import PixelCodec
from got_core.diffusion.objectives import EpsilonDiffusion, RectifiedFlow
from got_core.diffusion.schedulers import scheduler_named
from got_core.pipelines.inpainting import Kept, StillRest, changed_boxes, free_cells, kept_of
from got_core.pipelines.pipeline import GoTPipeline
from got_core.planning.plan import Plan

CHAIN = "a red circle (0,0),(240,240) (red) and a blue square (600,600),(990,990) (blue)."
PLAN = Plan("two things", CHAIN, (32, 32))
CORNER = (slice(0, 12), slice(0, 12))
"""The pixels that the first box and its margin touch: two cells and one, of four pixels each."""


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


def test_boxes_that_changed_are_those_of_one_plan_alone():
    assert changed_boxes(PLAN, PLAN) == ()
    assert changed_boxes(PLAN, PLAN.recolour(0, "green")) == ((0, 0, 240, 240), (0, 0, 240, 240))
    assert set(changed_boxes(PLAN, PLAN.move(1, dx=-600))) == {(600, 600, 990, 990), (0, 600, 390, 990)}
    assert changed_boxes(PLAN, PLAN.add("a cat", (300, 0, 400, 100))) == ((300, 0, 400, 100),)
    assert changed_boxes(PLAN, PLAN.remove(0)) == ((0, 0, 240, 240),)


def free(*changed, still=()):
    return free_cells(Kept(torch.zeros(3, 32, 32), changed, still), 8, 8)


def test_free_cells_hold_the_box_and_a_margin():
    corner = free((0, 0, 240, 240))
    assert corner[:3, :3].all()
    assert corner.sum() == 9
    assert free((500, 500, 501, 501)).nonzero().tolist() == [[r, c] for r in (3, 4, 5) for c in (3, 4, 5)]
    assert not free().any()


def test_the_margin_leaves_out_what_stays_but_the_box_does_not():
    beside = free((0, 0, 240, 240), still=((260, 0, 500, 999),))
    assert beside[:, :2].sum() == 6
    assert not beside[:, 2:].any()
    over = free((0, 0, 300, 240), still=((260, 0, 500, 999),))
    assert over[:2, :3].all()
    assert over.sum() == 8  # two columns of three cells, and two cells that the box itself reaches into


def test_a_changed_plan_leaves_the_rest_as_it_was(pipe):
    former = pipe.generate(PLAN, seed=3)
    changed = PLAN.replace(0, "a green star")
    anew, kept = pipe.generate(changed, seed=3), pipe.generate(changed, seed=3, keep=former)
    outside = np.ones((32, 32), dtype=bool)
    outside[CORNER] = False
    assert (pixels(anew) != pixels(former))[outside].any()
    assert np.array_equal(pixels(kept)[outside], pixels(former)[outside])
    assert (pixels(kept) != pixels(former))[~outside].any()
    assert np.array_equal(pixels(pipe.generate(PLAN, seed=3, keep=former)), pixels(former))


def test_an_edit_can_keep_its_source(pipe):
    source = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    plan = pipe.given_plan("a cat (0,0),(240,240)", "add a cat", source)
    drawn = pixels(pipe.generate(plan, keep=source))
    assert np.array_equal(drawn[12:], np.asarray(source)[12:])
    assert (drawn[CORNER] != np.asarray(source)[CORNER]).any()


def test_one_former_picture_for_each_plan():
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    plans = [PLAN, PLAN.remove(0)]
    kept = kept_of(plans, pictures)
    assert [entry.image[:, 0, 0].tolist() for entry in kept] == [[1, -1, -1], [-1, -1, 1]]
    assert [len(entry.changed) for entry in kept] == [2, 1]
    assert torch.equal(kept_of(plans, pictures[0])[1].image, kept[0].image)
    assert torch.equal(kept_of(plans, torch.ones(3, 32, 32))[1].image, torch.ones(3, 32, 32))
    with pytest.raises(ValueError, match="1 pictures to keep for 2 plans"):
        kept_of(plans, pictures[:1])


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
def test_the_rest_is_as_noisy_as_the_scheduler_has_it(objective, name):
    """With exact predictions the walk to the picture is the one that the rest is put on, at each step."""
    generator = torch.Generator().manual_seed(0)
    image, noise = (torch.randn(1, 3, 8, 8, generator=generator) for _ in range(2))
    scheduler = scheduler_named(objective, name)
    scheduler.set_timesteps(12, device=torch.device("cpu"))
    still = StillRest([Kept(image[0], ())], PixelCodec(), objective, scheduler, noise)
    first = scheduler.timesteps[0]
    begun = objective.corrupt(image, noise, first.float()[None])[0]
    seen_as = getattr(scheduler, "scale_model_input", lambda x, time: x)
    x = begun / seen_as(torch.ones_like(begun), first)
    for step, time in enumerate(scheduler.timesteps):
        seen = seen_as(x, time)
        signal, of_image = objective.corrupt(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), time.float()[None])
        strength, of_noise = objective.corrupt(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), time.float()[None])
        target = of_image * image + of_noise * (seen - signal * image) / strength
        x = scheduler.step(target, time, x, return_dict=False)[0]
        rest = still.after_step(step, x)
        assert torch.allclose(rest, x, atol=0.02 * float(x.std())), step
    assert torch.equal(rest, image)
