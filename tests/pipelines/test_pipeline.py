"""The pipeline: plans, images and edits as users of diffusers call them."""

import pickle
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from small_system import small_settings, stirred_system

from got_core.diffusion.sampling import Sampling
from got_core.diffusion.schedulers import scheduler_named
from got_core.model import PARTS
from got_core.pipelines.calls import one_seed_each, proportionate
from got_core.pipelines.pipeline import GoTPipeline
from got_core.planning.plan import Plan

CHAIN = "a red circle (94,188),(469,562) (red) and a blue square (500,562),(900,962) (blue)"
PROMPTS = ["a red circle", "two blue squares", "a cross"]


@pytest.fixture(scope="module")
def pipe():
    return GoTPipeline(stirred_system().model, (32, 32), small_settings())


@pytest.fixture(scope="module")
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_one_call_plans_and_generates(pipe):
    output = pipe(PROMPTS, output_type="pt", seed=3)
    plans = pipe.plan(PROMPTS)
    assert output.chains == tuple(plan.chain for plan in plans)
    assert output.regions == tuple(plan.regions for plan in plans)
    assert torch.equal(output.images, pipe.generate(plans, seed=3, output_type="pt").images)
    assert output.images.shape == (3, 3, 32, 32)
    assert 0 <= output.images.min() < output.images.max() <= 1


def test_a_batch_equals_its_images_one_by_one(pipe):
    """Each image alone, under its seed in the batch's output, is the same; so is each plan."""
    output = pipe(PROMPTS, output_type="pt", seed=5)
    for prompt, seed, chain, image in zip(PROMPTS, output.seeds, output.chains, output.images, strict=True):
        alone = pipe(prompt, seed=[seed], output_type="pt")
        assert alone.chains[0] == chain
        torch.testing.assert_close(alone.images[0], image, atol=1e-5, rtol=0)


def test_sampled_plans_do_not_depend_on_the_rest_of_the_batch(pipe):
    sampled = pipe(PROMPTS, temperature=1.0, seed=7, output_type="pt")
    again = pipe(PROMPTS[2], temperature=1.0, seed=[sampled.seeds[2]], output_type="pt")
    assert again.chains[0] == sampled.chains[2]
    torch.testing.assert_close(again.images[0], sampled.images[2], atol=1e-5, rtol=0)
    assert len({plan.chain for plan in pipe.plan([PROMPTS[0]] * 3, temperature=1.0)}) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_runs_in_half_precision_with_its_codec_in_its_own(dtype):
    half, whole = GoTPipeline.from_pretrained(device="cpu", dtype=dtype), GoTPipeline.from_pretrained(device="cpu")
    assert half.dtype == dtype
    kinds = {name: {p.dtype for p in getattr(half.model, name).parameters()} for name in PARTS}
    assert kinds == {"reasoner": {dtype}, "guidance": {dtype}, "backbone": {dtype}, "codec": {torch.float32}}
    assert {buffer.dtype for buffer in half.model.buffers() if buffer.is_floating_point()} == {torch.float32}
    plans = whole.plan(["a red circle to the left of a blue square", "two green triangles"])
    images, exact = (each.generate(plans, seed=1, output_type="pt").images for each in (half, whole))
    assert images.dtype == torch.float32
    assert (images - exact).abs().mean() < 0.01
    edits = whole.plan(["remove the circle", "make the triangles blue"], [*whole.generate(plans, seed=1).images])
    edited, exact = (each.generate(edits, seed=1, output_type="pt").images for each in (half, whole))
    assert (edited - exact).abs().mean() < 0.01
    assert all(plan.regions for plan in half.plan([plan.prompt for plan in plans]))
    assert torch.equal(whole.to(dtype).generate(plans, seed=1, output_type="pt").images, images)


def test_a_precision_is_one_and_of_floating_point_numbers():
    assert GoTPipeline.from_pretrained(device="cpu", torch_dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="two names of one argument"):
        GoTPipeline.from_pretrained(dtype=torch.bfloat16, torch_dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"not torch\.int8"):
        GoTPipeline.from_pretrained(dtype=torch.int8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number of at least 1, not 0"),
        ({"height": 0}, "height must be a whole number"),
        ({"width": -4}, "width must be a whole number"),
        ({"semantic_scale": float("nan")}, "semantic_scale must be a finite number"),
        ({"temperature": -1.0}, "temperature must be 0 or more"),
        ({"seed": []}, "0 seeds for 1 samples"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be"),
        ({"output_type": "jpeg"}, "output_type must be"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for 1 plans"),
        ({"guidance_scale": 7}, "no such argument: guidance_scale; semantic_scale, spatial_scale and reference_scale"),
        ({"negative_prompt": "a dog"}, "no such argument: negative_prompt; .*take out of the plan"),
        ({"num_inference_step": 2}, "num_inference_step; did you mean 'num_inference_steps'?"),
        ({"hight": 32}, "hight; did you mean 'height'?"),
        ({"best_of": 0}, "best_of must be a whole number"),
        ({"seed": 1, "generator": torch.Generator()}, "seed and generator both"),
        ({"height": 30}, "images of 30x32 pixels cannot be generated: .* multiples of 8, such as 32x32"),
        ({"latents": torch.zeros(1, 4, 8, 8)}, r"latents of shape \(1, 4, 8, 8\) were given; \(1, 48, 8, 8\)"),
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "may list latents, not"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_planned(pipe, monkeypatch, arguments, words):
    monkeypatch.setattr(pipe.model, "plan", None)
    with pytest.raises((ValueError, TypeError), match=words):
        pipe("a cross", **arguments)


def test_seeds_are_whole_numbers():
    with pytest.raises(ValueError, match=r"a seed is a whole number, not 1\.5"):
        one_seed_each(1.5, 1)
    with pytest.raises(ValueError, match="a seed is a whole number, not '12'"):
        one_seed_each("12", 2)
    assert one_seed_each(np.array([3, 4]), 2) == [3, 4]


def test_integers_of_any_type_are_seeds(pipe):
    plan = pipe.given_plan(CHAIN)
    images = [pipe.generate(plan, seed=seed, output_type="pt").images for seed in (3, np.int64(3), 2**45)]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_several_images_of_a_prompt_differ_in_noise(pipe):
    images = pipe(PROMPTS[:2], num_images_per_prompt=2, output_type="pt").images
    assert len(images) == 4
    assert len({image.sum().item() for image in images}) == 4


def test_images_are_of_the_requested_type(pipe):
    plan = pipe.given_plan(CHAIN)
    tensor, array, (image,) = (pipe.generate(plan, output_type=kind).images for kind in ("pt", "np", "pil"))
    assert array.shape == (1, 32, 32, 3)
    np.testing.assert_allclose(array[0], tensor[0].permute(1, 2, 0).numpy())
    np.testing.assert_allclose(np.asarray(image) / 255, array[0], atol=0.003)
    with pytest.raises(ValueError, match="output_type must be 'pil', 'pt', 'np' or 'latent', not 'jpeg'"):
        pipe.generate(plan, output_type="jpeg")


def test_generators_are_used_in_turn(pipe):
    plans = [pipe.given_plan(CHAIN, prompt) for prompt in PROMPTS]

    def generate(generator):
        return pipe.generate(plans, generator=generator, output_type="pt")

    one, other = generate(torch.Generator().manual_seed(1)), generate([torch.Generator().manual_seed(1) for _ in plans])
    assert one.seeds is None
    torch.testing.assert_close(one.images[0], other.images[0])
    assert not torch.equal(one.images[1], other.images[1])
    assert torch.equal(other.images, pipe.generate(plans, seed=[1, 1, 1], output_type="pt").images)
    with pytest.raises(ValueError, match="2 generators for 3 plans"):
        generate([torch.Generator()] * 2)
    with pytest.raises(ValueError, match="2 seeds for 3 samples"):
        pipe.generate(plans, seed=[1, 2])


def readings(pipe, monkeypatch):
    """The numbers of chains that the reasoner reads from now on, call by call."""
    read, summarize = [], pipe.model.reasoner.summarize
    monkeypatch.setattr(
        pipe.model.reasoner, "summarize", lambda batch, chains: read.append(len(chains)) or summarize(batch, chains)
    )
    return read


def test_a_plan_is_read_once_until_it_is_changed(photo, monkeypatch):
    """Its states are those of writing or of the first reading; another plan, and another pipeline's, are read."""
    pipe = GoTPipeline.from_pretrained(device="cpu")
    plans = pipe.plan(["remove the circle", "add a red square"], photo)
    fresh = [Plan(each.prompt, each.chain, each.size, each.source) for each in plans]
    read = readings(pipe, monkeypatch)
    known = pipe.generate(plans, seed=1, output_type="pt")
    assert read == []
    again = pipe.generate(fresh, seed=1, output_type="pt")
    assert read == [2]
    torch.testing.assert_close(known.images, again.images, atol=1e-4, rtol=0)
    pipe.generate([*again.plans, plans[0].with_chain("a circle (1,2),(300,400)")], seed=1, num_inference_steps=1)
    assert read == [2, 1]
    for changed in (
        replace(plans[0], prompt="another"),
        replace(plans[0], source=plans[0].source.clone()),
        replace(plans[0], earlier=("a circle",)),
        pickle.loads(pickle.dumps(plans[0])),
    ):
        read.clear()
        pipe.generate(changed, seed=1, num_inference_steps=1)
        assert read == [1]
    read.clear()
    GoTPipeline(pipe.model, pipe.size).generate(plans[0], seed=1, num_inference_steps=1)
    pipe.to("cpu").generate(plans[0], seed=1, num_inference_steps=1)
    assert read == [1, 1]


def test_a_chain_whose_tokens_do_not_follow_from_its_text_is_read(pipe, monkeypatch):
    """So that a chain and a seed make the same image, wherever the chain is from."""
    (plan,) = pipe.plan("a red circle", temperature=1.0, seed=3)
    processor = pipe.model.processor
    assert processor.vocabulary.decode(processor.fitting(plan.chain)[1]) == plan.chain
    read = readings(pipe, monkeypatch)
    image = pipe.generate(plan, seed=1, output_type="pt").images
    assert read == [1]
    assert torch.equal(image, pipe.generate(pipe.given_plan(plan.chain, plan.prompt), seed=1, output_type="pt").images)


def test_equal_requests_are_planned_once_unless_chains_are_sampled(pipe, monkeypatch):
    written, generate, heard = [], pipe.model.reasoner.generate, []
    monkeypatch.setattr(
        pipe.model.reasoner, "generate", lambda batch, **rest: written.append(len(batch)) or generate(batch, **rest)
    )
    prompts = ["a red circle", "a square", "a red circle"]
    plans = pipe.plan(prompts, listener=heard.append)
    assert written == [2]
    assert heard[-1] == tuple(plan.chain for plan in plans)
    assert plans[0].chain == plans[2].chain != plans[1].chain
    assert [plan.prompt for plan in plans] == prompts
    pipe.plan(prompts, temperature=1.0)
    assert written == [2, 3]


def test_an_edit_sees_its_image(pipe, photo):
    both = pipe.edit(photo, ["remove the circle", "move the square"], output_type="pt", seed=[4, 4])
    tensor = torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255
    again = pipe.edit(tensor, "remove the circle", output_type="pt", seed=[4])
    torch.testing.assert_close(again.images[0], both.images[0], atol=1e-4, rtol=0)
    assert not torch.allclose(
        pipe.edit(tensor.flip(2), "remove the circle", output_type="pt", seed=[4]).images, again.images
    )
    with pytest.raises(ValueError, match="2 images for 1 plans"):
        pipe.edit([photo, photo], "remove it")
    with pytest.raises(ValueError, match=r"of floats in \[0, 1\], not in \[.*, 2"):
        pipe.edit(tensor * 255, "remove it")


@pytest.mark.parametrize("kind", ["pil", "pt", "np"])
def test_generated_images_can_be_edited(pipe, kind):
    images = pipe(PROMPTS[:2], output_type=kind).images
    together = pipe.edit(images, ["remove it", "move it"], seed=[1, 2], output_type="pt").images
    alone = pipe.edit(images[1], "move it", seed=[2], output_type="pt").images
    torch.testing.assert_close(alone[0], together[1], atol=1e-4, rtol=0)


def test_scales_steps_and_size_can_be_given_in_a_call(pipe):
    plan = pipe.given_plan(CHAIN, size=(32, 64))
    usual = pipe.generate(plan, output_type="pt").images
    assert usual.shape == (1, 3, 32, 64)
    for changed in ({"semantic_scale": 1.0}, {"spatial_scale": 0.0}, {"num_inference_steps": 5}):
        assert not torch.allclose(pipe.generate(plan, output_type="pt", **changed).images, usual)
    own = pipe.model.generation_scales
    same = {"semantic_scale": own.semantic, "spatial_scale": own.spatial, "reference_scale": own.reference}
    assert torch.equal(pipe.generate(plan, output_type="pt", **same).images, usual)
    assert pipe("a cross", height=64, width=32, output_type="pt").images.shape == (1, 3, 64, 32)


def test_the_fast_procedure_is_the_default_and_exact_is_the_full_one(pipe, monkeypatch):
    plan = pipe.given_plan(CHAIN)

    def image(**options):
        return pipe.generate(plan, output_type="pt", **options).images

    full, steps = image(), pipe.model.sampling_steps
    monkeypatch.setattr(pipe.model, "fast", Sampling(steps + 1, (700, 1000)))
    fast = image()
    assert not torch.equal(fast, full)
    assert torch.equal(image(exact=True), full)
    assert torch.equal(image(exact=True, num_inference_steps=steps + 1, guidance_interval=(700, 1000)), fast)
    assert torch.equal(image(num_inference_steps=steps, guidance_interval=(0, 1000)), full)
    assert not torch.equal(image(num_inference_steps=steps), full)
    with pytest.raises(ValueError, match="guidance_interval must be two times"):
        image(guidance_interval=(1000, 700))


def test_a_callback_sees_every_step_and_may_change_it(pipe):
    plan, seen = pipe.given_plan(CHAIN), []

    def watch(caller, step, time, values):
        assert caller is pipe
        seen.append((step, float(time), tuple(values["latents"].shape)))

    usual = pipe.generate(plan, num_inference_steps=3, output_type="pt").images
    watched = pipe.generate(plan, num_inference_steps=3, output_type="pt", callback_on_step_end=watch).images
    assert torch.equal(watched, usual)
    assert [step for step, _, _ in seen] == [0, 1, 2]
    assert {shape for _, _, shape in seen} == {(1, 48, 8, 8)}
    blank = pipe.generate(
        plan, output_type="pt", callback_on_step_end=lambda p, i, t, values: {"latents": 0 * values["latents"]}
    ).images
    assert torch.equal(blank[0], torch.full((3, 32, 32), 0.5))


def test_the_pipeline_says_what_it_is(pipe):
    assert pipe.device == torch.device("cpu")
    assert pipe.dtype == torch.float32
    assert list(pipe.components) == ["reasoner", "guidance", "backbone", "codec", "objective", "scheduler"]
    assert pipe.components["backbone"] is pipe.model.backbone
    said = repr(pipe)
    assert all(f"{name}={type(part).__name__}" in said for name, part in pipe.components.items())
    assert "size=32x32, device=cpu, dtype=torch.float32" in said


def test_latents_go_in_and_come_out(pipe):
    plan = pipe.given_plan(CHAIN)
    usual = pipe.generate(plan, seed=[3], output_type="pt").images
    noise = torch.randn(1, 48, 8, 8, generator=torch.Generator().manual_seed(3))
    given = pipe.generate(plan, latents=noise, output_type="pt")
    assert torch.equal(given.images, usual)
    assert given.seeds is None
    output = pipe.generate(plan, seed=[3], output_type="latent")
    assert output.images.shape == (1, 48, 8, 8)
    assert torch.equal((pipe.model.decode(output.images) + 1) / 2, usual)
    assert pipe.preview(output.images) == pipe.generate(plan, seed=[3]).images


def test_outputs_are_indexed_as_those_of_diffusers(pipe):
    plan = pipe.given_plan(CHAIN)
    output = pipe.generate(plan)
    assert output[0] is output.images
    assert output["plans"] is output[1] is output.plans
    images, plans, seeds = pipe.generate(plan, return_dict=False)
    assert (images, plans, seeds) == (output.images, (plan,), output.seeds)


def test_a_callback_is_given_the_tensors_it_lists(pipe):
    seen = []
    for tensors in (["latents"], []):
        pipe.generate(
            pipe.given_plan(CHAIN),
            num_inference_steps=1,
            callback_on_step_end=lambda p, i, t, values: seen.append(list(values)),
            callback_on_step_end_tensor_inputs=tensors,
        )
    assert seen == [["latents"], []]


def test_the_progress_bar_counts_steps_and_can_be_hidden(pipe, capsys):
    own = pipe.scheduler
    try:
        pipe.scheduler = scheduler_named(pipe.model.objective, "FlowMatchHeunDiscreteScheduler")
        pipe.generate(pipe.given_plan(CHAIN), num_inference_steps=3)
        assert "5/5" in capsys.readouterr().err
        pipe.set_progress_bar_config(disable=True)
        pipe.generate(pipe.given_plan(CHAIN), num_inference_steps=3)
        assert capsys.readouterr().err == ""
    finally:
        pipe.scheduler = own
        pipe.set_progress_bar_config()


def test_sizes_far_from_the_trained_one_are_warned_of(pipe, recwarn):
    pipe.given_plan(CHAIN, size=(64, 16))
    assert not recwarn
    with pytest.warns(UserWarning, match="trained for images of 32x32 pixels; at 32x72 expect"):
        pipe.given_plan(CHAIN, size=(32, 72))


def test_a_listener_gets_chains_while_they_are_written(pipe):
    heard = []
    plans = pipe.plan(PROMPTS, listener=heard.append)
    assert heard[-1] == tuple(plan.chain for plan in plans)
    for earlier, later in pairwise(heard):
        assert all(len(after) >= len(before) for before, after in zip(earlier, later, strict=True))


def test_a_scheduler_that_fits_can_be_set(pipe):
    plan, own = pipe.given_plan(CHAIN), pipe.scheduler
    try:
        usual = pipe.generate(plan, num_inference_steps=8, output_type="pt").images
        pipe.scheduler = scheduler_named(pipe.model.objective, "UniPCMultistepScheduler")
        other = [pipe.generate(plan, num_inference_steps=8, output_type="pt").images for _ in range(2)]
        assert torch.equal(*other)
        assert 0 < (other[0] - usual).abs().mean() < 0.05
        with pytest.raises(ValueError, match="does not fit RectifiedFlow"):
            pipe.scheduler = type(pipe.scheduler)()
    finally:
        pipe.scheduler = own


@pytest.mark.parametrize("name", ["FlowMatchLCMScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_noise_that_a_scheduler_adds_follows_from_the_seed(pipe, name):
    plan, own = pipe.given_plan(CHAIN), pipe.scheduler
    settings = {"stochastic_sampling": True} if name.startswith("FlowMatchEuler") else {}
    try:
        pipe.scheduler = scheduler_named(pipe.model.objective, name, **settings)
        state = torch.get_rng_state()
        first, again, other = (pipe.generate(plan, seed=seed, output_type="pt").images for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.allclose(first, other)
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        pipe.scheduler = own


def test_an_edit_has_the_proportions_of_its_source(pipe):
    """At the pipeline's number of pixels, in multiples of what the model takes; an edit of an edit stays as large."""
    step, (height, width) = pipe.model.pixel_multiple, pipe.size
    wide = Image.new("RGB", (10 * width, 5 * height), "gray")
    edited = pipe.edit(wide, "add a red circle", seed=1).images[0]
    assert edited.width % step == edited.height % step == 0
    assert edited.width / edited.height == pytest.approx(2, rel=0.35)
    assert edited.width * edited.height == pytest.approx(width * height, rel=0.35)
    again = pipe.edit(edited, "add a blue square", seed=1).images[0]
    assert again.size == edited.size
    given = pipe.edit(wide, "add a red circle", seed=1, height=height, width=width).images[0]
    assert given.size == (width, height)
    square = Image.new("RGB", (7 * width, 7 * height), "gray")
    assert pipe.plan("add a red circle", square)[0].size == pipe.size


@pytest.mark.parametrize(
    ("source", "size", "expected"),
    [
        ((120, 200), (32, 32), (24, 40)),
        ((200, 120), (32, 32), (40, 24)),
        ((500, 500), (32, 32), (32, 32)),
        ((768, 1344), (1024, 1024), (768, 1344)),
        ((1080, 1920), (1024, 1024), (768, 1368)),
        ((3, 3000), (32, 32), (8, 160)),
    ],
)
def test_the_size_of_an_edit(source, size, expected):
    assert proportionate(source, size, 8) == expected
