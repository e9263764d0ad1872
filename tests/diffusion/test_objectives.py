"""Closed forms of both objectives, and that their schedulers undo their own corruption."""

import pytest
import torch

from got_core.diffusion.objectives import EpsilonDiffusion, RectifiedFlow

CPU = torch.device("cpu")
SHAPE = (4, 3, 5, 6)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(SHAPE, generator=seeded(0)), torch.randn(SHAPE, generator=seeded(1))


def test_flow_is_a_straight_line_with_constant_velocity():
    x0, noise = pair()
    x_t, target = RectifiedFlow().corrupt(x0, noise, torch.tensor([0.0, 1000.0, 250.0, 500.0]))
    torch.testing.assert_close(x_t[0], x0[0])
    torch.testing.assert_close(x_t[1], noise[1])
    torch.testing.assert_close(x_t[2], 0.75 * x0[2] + 0.25 * noise[2])
    torch.testing.assert_close(target, noise - x0)


@pytest.mark.parametrize(("timesteps", "quartile"), [("uniform", 0.25), ("logit_normal", 0.3375)])
def test_flow_draws_times_with_the_quartile_of_their_distribution(timesteps, quartile):
    t = RectifiedFlow(timesteps=timesteps).sample_t(40_000, CPU, seeded(0))
    assert t.shape == (40_000,)
    assert 0 <= t.min() < t.max() <= 1000
    assert (t / 1000).quantile(0.25).item() == pytest.approx(quartile, abs=0.01)


def test_flow_shift_moves_training_times_and_scheduler_alike():
    plain = RectifiedFlow().sample_t(8, CPU, seeded(3)) / 1000
    shifted = RectifiedFlow(shift=3.0).sample_t(8, CPU, seeded(3)) / 1000
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain))
    straight, bent = RectifiedFlow().scheduler(), RectifiedFlow(shift=3.0).scheduler()
    straight.set_timesteps(4, device=CPU)
    bent.set_timesteps(4, device=CPU)
    s = straight.timesteps / 1000
    torch.testing.assert_close(bent.timesteps[:-1] / 1000, (3 * s / (1 + 2 * s))[:-1], atol=2e-3, rtol=0)


def test_logit_mean_moves_times_towards_noise():
    low = RectifiedFlow(logit_mean=-1.0).sample_t(2000, CPU, seeded(0)).mean()
    high = RectifiedFlow(logit_mean=1.0).sample_t(2000, CPU, seeded(0)).mean()
    assert low < 400 < 600 < high


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_epsilon_corruption_is_that_of_ddpm(prediction):
    x0, noise = pair()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    signal = (1 - betas).cumprod(0)[[0, 500, 999, 250]].float()[:, None, None, None]
    x_t, target = EpsilonDiffusion(prediction=prediction).corrupt(x0, noise, torch.tensor([0.0, 500.0, 999.0, 250.0]))
    torch.testing.assert_close(x_t, signal.sqrt() * x0 + (1 - signal).sqrt() * noise, atol=1e-4, rtol=1e-4)
    expected = noise if prediction == "epsilon" else signal.sqrt() * noise - (1 - signal).sqrt() * x0
    torch.testing.assert_close(target, expected, atol=1e-4, rtol=1e-4)


def test_cosine_betas_leave_less_signal_in_the_middle_than_at_the_start():
    signal = EpsilonDiffusion(schedule="squaredcos_cap_v2").signal
    angle = torch.linspace(0, 1, 1001, dtype=torch.float64)[1:]
    expected = torch.cos((angle + 0.008) / 1.008 * torch.pi / 2) ** 2
    torch.testing.assert_close(signal[:900].double(), (expected / expected[0] * signal[0])[:900], atol=1e-3, rtol=0)


def test_epsilon_times_are_whole_numbers_below_1000():
    t = EpsilonDiffusion().sample_t(20_000, CPU, seeded(0))
    assert t.dtype == torch.float32
    torch.testing.assert_close(t, t.round())
    assert (t.min().item(), t.max().item()) == (0, 999)
    assert t.mean().item() == pytest.approx(499.5, abs=6)


def test_noise_offset_adds_one_number_a_channel():
    plain = EpsilonDiffusion().sample_noise(torch.zeros(SHAPE), seeded(0))
    offset = EpsilonDiffusion(noise_offset=0.1).sample_noise(torch.zeros(SHAPE), seeded(0)) - plain
    torch.testing.assert_close(offset, offset[..., :1, :1].expand(SHAPE), atol=1e-6, rtol=0)
    assert offset[..., 0, 0].unique().numel() == SHAPE[0] * SHAPE[1]
    many = EpsilonDiffusion(noise_offset=0.5).sample_noise(torch.zeros(4000, 4, 1, 1), seeded(0))
    assert many.std().item() == pytest.approx((1 + 0.25) ** 0.5, abs=0.02)


@pytest.mark.parametrize("objective", [RectifiedFlow(), EpsilonDiffusion()], ids=["flow", "epsilon"])
def test_loss_is_the_mean_square_of_each_sample(objective):
    x0, noise = pair()
    t = torch.tensor([10.0, 300.0, 600.0, 900.0])
    _, target = objective.corrupt(x0, noise, t)
    off = torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None, None, None]
    loss = objective.loss(lambda x, t: target + off, x0, noise, t)
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.0, 4.0, 9.0]))


@pytest.mark.parametrize(
    ("objective", "accuracy"),
    [
        (RectifiedFlow(), 1e-5),
        (RectifiedFlow(shift=3.0), 1e-5),
        (EpsilonDiffusion(), 1e-4),
        (EpsilonDiffusion(prediction="v_prediction"), 1e-4),
        (EpsilonDiffusion(schedule="squaredcos_cap_v2"), 1e-4),
        (EpsilonDiffusion(schedule="linear", beta_start=1e-4, beta_end=0.02), 1e-4),
    ],
    ids=["flow", "shifted", "dpm", "v", "cosine", "linear"],
)
def test_scheduler_finds_a_single_image_from_its_exact_field(objective, accuracy):
    """When all data is one image, the exact prediction is known and every solver must arrive at that image."""
    x0, x = pair()
    scheduler = objective.scheduler()
    scheduler.set_timesteps(8, device=CPU)
    for time in scheduler.timesteps:
        t = time.float().expand(len(x))
        at_zero, _ = objective.corrupt(x0, torch.zeros_like(x0), t)
        at_one, _ = objective.corrupt(torch.zeros_like(x0), torch.ones_like(x0), t)
        noise = (x - at_zero) / at_one
        x = scheduler.step(objective.corrupt(x0, noise, t)[1], time, x, return_dict=False)[0]
    torch.testing.assert_close(x, x0, atol=accuracy, rtol=0)


def test_every_scheduler_is_fresh():
    objective = RectifiedFlow()
    first = objective.scheduler()
    first.set_timesteps(3, device=CPU)
    assert len(objective.scheduler().timesteps) == 1000
