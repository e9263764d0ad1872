"""The joint training step, its dropout and guards, and generation."""

import math

import pytest
import torch
from lightning import Callback, Trainer
from small_run import train
from small_system import scenes_batch, scenes_samples, small_settings, small_system
from torch.utils.data import DataLoader

from got_core.data.scenes.dataset import ScenesDataset
from got_core.diffusion.objectives import EpsilonDiffusion, RectifiedFlow
from got_core.diffusion.sampling import GuidanceScales, dropped_conditions
from got_core.errors import UserError
from got_core.model import COMPONENTS
from got_core.training.recipe import build_model
from got_core.training.system import warmup_cosine


@pytest.fixture
def system():
    made = small_system()
    made.log = lambda *args, **values: None
    return made


def gradients(system, name):
    return {key: p.grad for key, p in getattr(system, name).named_parameters() if p.grad is not None}


def test_joint_loss_is_the_weighted_sum_of_both(system):
    batch = scenes_batch(system)
    system.eval()

    def loss(chain_weight, denoising_weight):
        system.chain_weight, system.denoising_weight = chain_weight, denoising_weight
        torch.manual_seed(3)
        return system.training_step(batch, 0)

    expected = 2 * loss(1.0, 0.0) + 3 * loss(0.0, 1.0)
    torch.testing.assert_close(loss(2.0, 3.0), expected)


def test_denoising_gradient_reaches_every_component_through_the_states():
    system = small_system(chain_weight=0.0)
    system.log = lambda *args, **values: None
    torch.nn.init.normal_(system.backbone.head.proj.weight, std=0.1)
    for layer in system.backbone.layers:
        torch.nn.init.normal_(layer.cross.proj.weight, std=0.1)
    system.training_step(scenes_batch(system), 0).backward()
    for name in COMPONENTS:
        assert any(bool(gradient.abs().max() > 0) for gradient in gradients(system, name).values()), name
    assert not gradients(system, "codec")


def test_dropout_draws_each_condition_with_the_same_probability():
    draws = torch.linspace(0, 0.999, 1000)
    semantic, spatial, reference = dropped_conditions(draws, 0.05)
    kept = torch.stack([~semantic, ~spatial, ~reference], dim=1)
    shares = {pattern: int((kept == torch.tensor(pattern)).all(dim=1).sum()) for pattern in (
        (False, False, False), (False, False, True), (True, False, True), (True, True, True))}  # fmt: skip
    assert list(shares.values()) == pytest.approx([50, 50, 50, 850], abs=1)
    assert sum(shares.values()) == 1000


def test_dropout_takes_the_parts_its_draw_says_and_in_training_mode_only(monkeypatch):
    system = small_system(conditioning_dropout=1 / 3)
    batch = scenes_batch(system)
    guidance = system.guidance(system.reasoner(batch), batch, system.codec)
    assert system.eval().drop_conditions(guidance) is guidance
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", lambda *shape, **settings: torch.tensor([0.0, 0.3, 0.4, 0.6, 0.7, 0.9]))
        dropped = system.train().drop_conditions(guidance)
    null = system.guidance.projector.bias
    assert [bool((row == null).all()) for row in dropped.tokens] == [True] * 4 + [False] * 2
    assert not bool(dropped.spatial.any())
    kept = [torch.equal(a, b) for a, b in zip(dropped.reference, guidance.reference, strict=True)]
    assert kept == [False, False, True, True, True, True]


def test_several_noise_draws_share_one_reasoner_pass(system):
    batch = scenes_batch(system)
    guidance = system.guidance(system.reasoner(batch), batch, system.codec)
    sizes = []
    system.backbone.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    system.noise_draws = 3
    system.denoising_loss(batch, guidance)
    assert sizes == [3 * len(batch)]


def test_warm_up_then_cosine():
    factors = [warmup_cosine(step, 10, 110, 0.1) for step in range(111)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == pytest.approx(1.0)
    assert factors[60] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert factors[110] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("part", "values", "sides"),
    [
        ("guidance", {"state_dim": 64}, ("Qwen2_5_VLReasoner", "32", "SemanticSpatialGuidance", "64")),
        ("backbone", {"latent_channels": 12}, ("PixelCodec", "48", "FlowDiT", "12")),
        ("backbone", {"token_dim": 16}, ("SemanticSpatialGuidance", "32", "FlowDiT", "16")),
        ("backbone", {"spatial_channels": None}, ("SemanticSpatialGuidance", "48", "FlowDiT", "none")),
        ("guidance", {"reference_channels": None}, ("SemanticSpatialGuidance", "none", "FlowDiT", "48")),
    ],
)
def test_widths_that_do_not_fit_name_both_sides(part, values, sides):
    settings = small_settings()
    settings["init_args"][part]["init_args"].update(values)
    with pytest.raises(UserError) as caught:
        build_model(settings)
    for word in sides:
        assert word in str(caught.value)


def test_learning_rates_must_name_every_component():
    with pytest.raises(UserError, match="learning_rates must name reasoner, guidance, backbone"):
        small_system(learning_rates={"reasoner": 1e-3})


def fit(system, steps, spoil=lambda step: False):
    """Train some steps; at those that `spoil` names, one gradient is not a number."""
    scenes = ScenesDataset(length=64)
    loader = DataLoader(scenes, batch_size=4, collate_fn=system.processor)
    step = {"now": -1}

    def hook(module, inputs):
        step["now"] += 1

    system.reasoner.register_forward_pre_hook(hook)
    system.guidance.projector.weight.register_hook(lambda g: g * math.nan if spoil(step["now"]) else g)
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(system, loader)
    return trainer


def test_groups_by_component_with_their_own_rates():
    system = small_system(learning_rates={"reasoner": 1e-3, "guidance": 2e-3, "backbone": 3e-3}, warmup_steps=1)
    trainer = fit(system, 1)
    groups = trainer.optimizers[0].param_groups
    assert [group["name"] for group in groups] == list(COMPONENTS)
    assert [group["initial_lr"] for group in groups] == [1e-3, 2e-3, 3e-3]
    trained = {id(p) for group in groups for p in group["params"]}
    assert not trained & {id(p) for p in system.codec.parameters()}


def test_a_step_with_a_non_finite_gradient_is_skipped_and_counted():
    spoiled, clean = small_system(), small_system()
    before = {key: value.clone() for key, value in spoiled.state_dict().items()}
    fit(spoiled, 1, spoil=lambda step: True)
    assert spoiled.nonfinite_steps == 1
    for key, value in spoiled.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    fit(clean, 1)
    assert clean.nonfinite_steps == 0
    assert any(not torch.equal(value, before[key]) for key, value in clean.state_dict().items())


def test_training_continues_after_a_few_and_stops_after_too_many_in_a_row():
    system = small_system(max_nonfinite_steps=3)
    fit(system, 6, spoil=lambda step: step in (0, 1, 3, 4))
    assert system.nonfinite_steps == 4
    with pytest.raises(RuntimeError, match="not finite 3 times in a row"):
        fit(small_system(max_nonfinite_steps=3), 6, spoil=lambda step: step >= 1)


def test_generation_is_a_function_of_the_seed(system):
    system.eval()
    batch = scenes_batch(system)
    one, same, other = (system.model.generate(batch, seed=seed) for seed in (1, 1, 2))
    assert one.images.shape == (6, 3, 32, 32)
    assert float(one.images.abs().max()) <= 1
    assert torch.equal(one.images, same.images)
    assert one.chains == same.chains
    assert not torch.equal(one.images, other.images)


def test_a_mixed_batch_draws_what_its_parts_draw_alone(system):
    system.eval()
    system.model.generation_scales, system.editing_scales = (
        GuidanceScales(3.0, 2.0, 1.0),
        GuidanceScales(2.0, 1.5, 1.25),
    )
    torch.nn.init.normal_(system.backbone.head.proj.weight, std=0.05)
    both = scenes_samples(2)
    for samples in (both, both[::-1]):
        mixed, alone = system.processor(samples), system.processor(samples[:1])
        together = system.model.generate(mixed, mixed.chains, seed=4).images[:1]
        torch.testing.assert_close(
            together, system.model.generate(alone, alone.chains, seed=4).images, rtol=1e-4, atol=1e-5
        )
    scales = system.model.generation_scales
    edit = system.processor(both[1:])
    other = system.model.generate(edit, edit.chains, seed=4, scales=scales).images
    assert not torch.allclose(other, system.model.generate(edit, edit.chains, seed=4).images, atol=1e-3)


def test_images_of_given_chains_differ_by_their_boxes(system):
    system.eval()
    torch.nn.init.normal_(system.backbone.head.proj.weight, std=0.2)
    batch = scenes_batch(system, 2)
    chain = "<|object_ref_start|>a red circle<|object_ref_end|><|box_start|>({}),(500,500)<|box_end|> (red)"
    here, there = (system.model.generate(batch, [chain.format(corner)] * 2, seed=0) for corner in ("0,0", "250,250"))
    assert here.chains == (chain.format("0,0"),) * 2
    assert not torch.equal(here.images, there.images)


class Collected(Callback):
    """Keeps the images."""

    def __init__(self) -> None:
        self.images: list[torch.Tensor] = []

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.images.append(outputs.images)


def validated(seed: int) -> list[torch.Tensor]:
    """What validation draws of two equal batches from true chains."""
    system, collected = small_system(validation_seed=seed, validation_chains="given"), Collected()
    scenes = ScenesDataset(length=2)
    loader = DataLoader([scenes[0], scenes[1]] * 2, batch_size=2, collate_fn=system.processor)
    silent = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    Trainer(accelerator="cpu", callbacks=[collected], **silent).validate(system, loader, verbose=False)
    return collected.images


def test_another_validation_seed_draws_from_other_noise():
    first, again, other, largest = validated(0), validated(0), validated(1), validated(2**31 - 1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    images = [*first, *other, *largest]
    assert not any(torch.equal(a, b) for index, a in enumerate(images) for b in images[:index])


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("bf16-true", torch.bfloat16), ("16-true", torch.float16), ("64-true", torch.float64)],
)
def test_a_step_in_another_precision_starts_at_the_same_loss(tmp_path, precision, dtype):
    usual = train(0, "one", str(tmp_path / "usual"), steps=1, ranks=1)
    other = train(0, "one", str(tmp_path / "other"), steps=1, ranks=1, precision=precision)
    assert other.steps[1][0] == pytest.approx(usual.steps[1][0], rel=0.02)
    assert {weight.dtype for weight in other.end["weights"].values()} == {dtype}
    assert any(not torch.equal(weight, other.begin["weights"][name]) for name, weight in other.end["weights"].items())
    assert all(torch.isfinite(weight).all() for weight in other.end["weights"].values())


def test_times_keep_their_precision_where_the_default_is_another():
    torch.set_default_dtype(torch.bfloat16)
    try:
        for objective in (RectifiedFlow(), RectifiedFlow(timesteps="uniform"), EpsilonDiffusion()):
            t = objective.sample_t(1000, torch.device("cpu"))
            assert t.dtype == torch.float32
            assert isinstance(objective, EpsilonDiffusion) or len(t.unique()) > 900
    finally:
        torch.set_default_dtype(torch.float32)
