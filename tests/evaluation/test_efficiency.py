"""What is counted in shape alone is what a real drawing takes, and the pipelines are as large as published."""

import json
import os
import time

import pytest
import torch
import yaml
from narrow_references import NARROW
from small_system import small_settings, small_system
from torch.utils.flop_counter import FlopCounterMode

from got_core.cli.main import main
from got_core.evaluation.efficiency.measure import (
    LARGEST_ON_CPU,
    STAGES,
    Clock,
    Latency,
    ModelWorkload,
    efficiency_table,
    latencies,
    measured,
    obstacle,
    parameter_counts,
    peak_bytes,
    peak_memory,
    random_weights,
)
from got_core.evaluation.efficiency.references import REFERENCES, ReferenceWorkload, build_reference
from got_core.evaluation.results import processor
from got_core.inspection.costs import parameters
from got_core.inspection.shapes import META
from got_core.training.recipe import build_model
from got_core.weights.loading import without_weights

CPU = torch.device("cpu")

PUBLISHED = {
    "SD 1.5": (859_520_964, [123_060_480], 83_653_863),
    "SDXL": (2_567_463_684, [123_060_480, 694_659_840], 83_653_863),
    "SD 3 Medium": (2_084_951_104, [123_650_304, 694_659_840, 4_762_310_656], 83_819_683),
    "InstructPix2Pix": (859_532_484, [123_060_480], 83_653_863),
}
"""Numbers in the released files of denoiser, text encoders and autoencoder."""


def small_reference(reference, steps=2):
    return ReferenceWorkload(reference, build_reference(reference, CPU), (reference.side, reference.side), steps)


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda reference: reference.name)
def test_pipelines_are_as_large_as_published(reference):
    workload = ReferenceWorkload(reference, build_reference(reference, META), (reference.side, reference.side))
    denoiser, texts, autoencoder = PUBLISHED[reference.name]
    state = workload.denoiser.state_dict().values()  # SD 3's fixed places are in its file, but no parameters
    assert sum(tensor.numel() for tensor in state) == denoiser
    assert [parameters(encoder).total for encoder in workload.encoders] == texts
    counted = parameter_counts(workload)
    assert counted["autoencoder"] == autoencoder
    assert counted["reasoner or text encoders"] == sum(texts)


def test_the_flops_of_stable_diffusion_are_those_published():
    """Kim et al., BK-SDM (arXiv 2305.15798): 339 and 1240 billion multiplications, without those inside attention.

    These are by hand: two products of all queries with all keys, at three sizes of five layers each and of one in the
    middle; and of one layer in the autoencoder.
    """
    workload = ReferenceWorkload(REFERENCES[0], build_reference(REFERENCES[0], META), (512, 512))
    flops = workload.flops()
    sizes = ((64, 320, 5), (32, 640, 5), (16, 1280, 5), (8, 1280, 1))
    attention = sum(2 * side**2 * (side**2 + 77) * width * layers for side, width, layers in sizes)
    a_pass = flops["denoise"] / workload.calls / workload.passes / 2
    assert a_pass == pytest.approx(339e9 + attention, rel=0.005)
    assert flops["decode"] / 2 == pytest.approx(1240e9 + 2 * 64**4 * 512, rel=0.001)


@pytest.mark.parametrize("reference", NARROW, ids=lambda reference: reference.name)
def test_a_pipelines_flops_are_those_of_a_real_drawing(reference):
    workload = small_reference(reference)
    expected = workload.flops()
    seen = []
    with FlopCounterMode(display=False) as counter:
        workload.denoiser.register_forward_hook(lambda *_: seen.append(counter.get_total_flops()))
        workload.run(Clock(CPU), workload.steps)
        total = counter.get_total_flops()
    step = seen[1] - seen[0]
    assert step * len(seen) == expected["denoise"]
    assert len(seen) == workload.steps + (reference.name == "SD 1.5")
    assert seen[0] - step == expected["guide"]
    assert total - seen[-1] == expected["decode"]
    assert expected["reason"] == 0


def test_a_systems_flops_are_those_of_a_real_drawing():
    system = small_system().model
    workload = ModelWorkload(system, "small", (32, 32), 3)
    expected = workload.flops()
    batch = workload._batch(CPU)
    marks = {}

    class Counting(Clock):
        def mark(self, stage):
            marks[stage] = counter.get_total_flops() - sum(marks.values())

    with FlopCounterMode(display=False) as counter:
        workload.run(Counting(CPU), 3)
    assert {stage: marks[stage] for stage in STAGES[1:]} == {stage: expected[stage] for stage in STAGES[1:]}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        system.reasoner(batch)
    assert counter.get_total_flops() == expected["reason"]
    assert all(not parameter.is_meta for parameter in system.parameters())


def test_random_weights_of_a_recipe_draw():
    with without_weights():
        system = build_model(small_settings()).model
    workload = ModelWorkload(system, "small", (32, 32), 2)
    counted = workload.flops()
    random_weights(system, CPU, torch.float32)
    assert not any(parameter.is_meta for parameter in system.parameters())
    assert workload.flops() == counted
    found = measured(workload, CPU, repeats=2, warm_up=0)
    assert all(found.latency[stage].median > 0 for stage in (*STAGES, "all"))
    assert found.memory > 4 * sum(found.parameters.values())


def test_a_clock_tells_stages_apart_and_the_median_runs_apart():
    clock = Clock(CPU)
    clock.start()
    time.sleep(0.02)
    clock.mark("guide")
    clock.mark("denoise")
    clock.mark("guide")
    assert clock.seconds["guide"] >= 0.02 > clock.seconds["denoise"]
    assert Latency.of([5.0, 1.0, 2.0, 3.0, 100.0]) == Latency(3.0, 2.0, 5.0)


def test_warm_up_is_not_counted():
    class Slow(ModelWorkload):
        runs = 0

        def run(self, clock, steps):
            clock.start()
            clock.seconds["reason"] = 100.0 if self.runs == 0 else 1.0
            self.runs += 1

    workload = Slow(small_system().model, "slow", (32, 32))
    assert latencies(workload, CPU, repeats=3, warm_up=1)["reason"] == Latency(1.0, 1.0, 1.0)
    assert workload.runs == 4


def test_peak_memory_is_that_of_what_is_there_at_a_time_and_the_profiler_says_nothing(capfd):
    def run():
        first = torch.ones(250_000)
        second = first + 1
        del first
        torch.ones(100_000)
        del second

    assert peak_bytes(run, CPU, held=7) == pytest.approx(7 + 2_000_000, rel=0.01)
    assert capfd.readouterr().err == ""
    os.write(2, b"heard again")
    assert capfd.readouterr().err == "heard again"


def test_memory_does_not_depend_on_the_number_of_steps():
    one, many = (small_reference(NARROW[2], steps) for steps in (2, 5))
    assert peak_memory(one, CPU) == peak_memory(many, CPU) > 4 * sum(parameter_counts(one).values())


def test_what_is_too_large_says_so():
    assert "measured on a GPU only" in obstacle(LARGEST_ON_CPU + 1, torch.float32, CPU)
    assert obstacle(1000, torch.float32, CPU) is None
    workload = small_reference(NARROW[0])
    found = measured(workload, CPU, 1, 0, "too large")
    table = efficiency_table([found, measured(workload, CPU, 1, 0)], "title")
    assert table.columns[1].header == "SD 1.5"
    assert list(table.columns[1].cells)[-1] == "-"
    assert list(table.columns[2].cells)[-1] != "-"


def test_a_checkpoint_stands_beside_the_pipelines(tmp_path, capsys):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump({"model": small_settings(), "data": {"size": 32}}))
    torch.save({"global_step": 0, "state_dict": small_system().state_dict()}, run / "checkpoints" / "last.ckpt")
    common = ("evaluate", "efficiency", "--accelerator", "cpu")
    few = ("--steps", "2", "--repeats", "1", "--warm-up", "0")
    main([*common, "--checkpoint", str(run), "--output", str(tmp_path / "out"), *few])
    printed = capsys.readouterr().out
    assert "SD 3 Medium" in printed
    assert "SDXL: time and memory not measured: " in printed
    assert processor() in printed.replace("\n", " ")
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [entry["name"] for entry in written["measured"]] == ["run", *PUBLISHED]
    assert written["measured"][0]["latency"]["denoise"]["median"] > 0
    assert all(entry["flops"]["denoise"] > 0 for entry in written["measured"])
    assert written["measured"][0]["parameters"]["all"] == parameters(small_system()).total
    assert "checkpoint" in written["checksums"]
    with pytest.raises(SystemExit):
        main([*common, "--checkpoint", str(run), "--output", str(tmp_path / "out"), "--size", "31x32"])
    assert "run at 31x32: images of 31x32 pixels do not divide" in capsys.readouterr().err
    for wrong in ((), ("--checkpoint", str(run)), ("--checkpoint", "a", "--config", "b", "--output", "c")):
        with pytest.raises(SystemExit):
            main([*common, *wrong])
        assert "--checkpoint RUN or --config FILE" in capsys.readouterr().err


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_a_device_that_is_not_there_is_one_line(tmp_path, capsys):
    for name in ("gpu", "cuda", "nonsense"):
        with pytest.raises(SystemExit):
            main(["evaluate", "efficiency", "--accelerator", name, "--config", "recipes/scenes_dit.yaml",
                  "--output", str(tmp_path)])  # fmt: skip
        assert f"--accelerator {name}: there is no such device here" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pipelines of full size are timed on a GPU only")
@pytest.mark.parametrize("reference", REFERENCES, ids=lambda reference: reference.name)
def test_full_size_is_timed_on_a_gpu(reference):
    device = torch.device("cuda")
    pipeline = build_reference(reference, device, torch.bfloat16)
    workload = ReferenceWorkload(reference, pipeline, (reference.side, reference.side), 4)
    found = measured(workload, device, repeats=2, warm_up=1)
    assert found.memory > 2 * sum(found.parameters.values())
    assert found.latency["denoise"].median > found.latency["decode"].median > 0
