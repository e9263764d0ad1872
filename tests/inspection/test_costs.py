"""What is predicted in shape alone is what a real step takes."""

import gc
from contextlib import contextmanager

import pytest
import torch
import yaml
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from got_core.inspection.costs import PARTS, parameters, shape_batch, step_cost, typical_samples
from got_core.inspection.shapes import in_shape
from got_core.paths import ROOT
from got_core.training.recipe import build_model

FLOAT_BYTES = 4
SIZE = (32, 32)
FORWARD_ENDS = "forward ends"


def built(recipe, **settings):
    model = yaml.safe_load((ROOT / "recipes" / f"{recipe}.yaml").read_text())["model"]
    model["init_args"].update(settings)
    system = build_model(model).train()
    system.configure_model()
    return system


def forward(system, batch):
    reasoning = system.reasoner(batch)
    guidance = system.guidance(reasoning, batch, system.codec)
    return system.denoising_loss(batch, guidance) + reasoning.loss


@contextmanager
def no_garbage():
    """Within, nothing that earlier tests left behind is freed, which would count against what is measured."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def measured_memory(system, batch):
    """(activations, peak) in bytes, by the allocator's own record."""
    forward(system, batch).backward()  # what is made once, is made
    system.zero_grad(set_to_none=True)
    with no_garbage(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        loss = forward(system, batch)
        with record_function(FORWARD_ENDS):
            pass
        loss.backward()
    events = record.profiler.kineto_results.events()
    turn = next(event.start_ns() for event in events if event.name() == FORWARD_ENDS)
    live = peak = activations = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
        activations = live if event.start_ns() < turn else activations
    return activations, peak


@pytest.mark.parametrize("recipe", ["scenes_dit", "scenes_sdxl"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_predicted_memory_is_what_the_allocator_records(recipe, checkpointing):
    system = built(recipe, activation_checkpointing=checkpointing)
    samples = typical_samples(SIZE, 2, edit=True)
    with in_shape(system):
        cost = step_cost(system, shape_batch(system, samples, torch.float32))
    activations, peak = measured_memory(system, system.processor(samples))
    random_states = 100_000  # which checkpointing keeps, a few kilobytes a block
    assert cost.activations == pytest.approx(activations, rel=0.01, abs=random_states)
    assert cost.peak(FLOAT_BYTES) == pytest.approx(peak, rel=0.02)


def test_checkpointing_takes_less_memory_and_more_flops():
    costs = {}
    for checkpointing in (False, True):
        system = built("scenes_dit", activation_checkpointing=checkpointing)
        with in_shape(system):
            batch = shape_batch(system, typical_samples(SIZE, 2, edit=False), torch.float32)
            costs[checkpointing] = step_cost(system, batch)
    assert costs[True].activations < 0.5 * costs[False].activations
    assert costs[True].flops["backbone"].forward == costs[False].flops["backbone"].forward
    assert costs[True].flops["backbone"].backward > 1.4 * costs[False].flops["backbone"].backward


def test_flops_are_those_of_a_real_step():
    system = built("scenes_sdxl")
    samples = typical_samples(SIZE, 2, edit=True)
    with in_shape(system):
        spent = step_cost(system, shape_batch(system, samples, torch.float32)).flops
    batch = system.processor(samples)
    with FlopCounterMode(display=False) as counter:
        loss = forward(system, batch)
        done = counter.get_total_flops()
        loss.backward()
    assert sum(part.forward for part in spent.values()) == done
    assert sum(part.total for part in spent.values()) == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        system.codec.encode(batch.target)
    assert spent["codec"].forward > counter.get_total_flops() > 0


def test_parameters_are_those_of_the_real_classes_and_come_back_after_a_trace():
    system = built("scenes_dit")
    weights = dict(system.named_parameters())
    counted = {name: parameters(getattr(system, name)) for name in PARTS}
    with in_shape(system):
        assert all(p.is_meta for p in system.parameters())
        assert {name: parameters(getattr(system, name)) for name in PARTS} == counted
    assert all(parameter is weights[name] for name, parameter in system.named_parameters())
    assert counted["codec"].trainable == 0
    assert sum(part.total for part in counted.values()) == sum(p.numel() for p in system.parameters())
