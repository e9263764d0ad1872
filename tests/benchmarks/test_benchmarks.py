"""`got bench`: the released algorithm gives our images and losses, and times, ratios and exponents are right."""

import json
import time

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused

from got_core.benchmarks import limits, scaling, shards, startup
from got_core.benchmarks.inference import BATCHED, FAST, OURS, RELEASED, STAGES, Request, compare_images
from got_core.benchmarks.measuring import WHOLE, Spent, Stopwatch, Timings, in_turns
from got_core.benchmarks.models import benchmark_model, requests
from got_core.benchmarks.reading import IN_ORDER, RANDOM, SHUFFLED
from got_core.benchmarks.training import BARE, FIT, PLAIN, compare_steps
from got_core.cli.main import main
from got_core.data.folders import Folder
from got_core.paths import ROOT

CPU = torch.device("cpu")
RECIPE = ("recipes/scenes_dit.yaml", "tests/fixtures/tiny_scenes.yaml")


def test_images_are_compared_on_the_command_line(tmp_path, capsys):
    small = ("--side", "32", "--tokens", "20", "--steps", "2", "--measured-steps", "1", "--repeats", "1")
    file = tmp_path / "images.json"
    main(["bench", "inference", "--backbone", "unet", "--edit", "true", *small, "--device", "cpu", "--json", str(file)])
    assert "unet: an edit of 32x32, 2 steps" in capsys.readouterr().out
    (found,) = json.loads(file.read_text())["measured"]
    assert found["difference"] < 1e-3
    assert found["seconds"].keys() == {RELEASED, BATCHED, OURS, FAST}


def test_the_released_algorithm_gives_the_same_latents():
    request = Request((32, 32), False, tokens=20, steps=2, measured_steps=1)
    found = compare_images("dit", request, 1, CPU)
    assert found.difference < 1e-3
    assert found.timings.runs.keys() == {RELEASED, BATCHED, OURS, FAST}
    for (run,) in found.timings.runs.values():
        assert tuple(run) == STAGES
        assert run["denoise"].cpu > 0


def test_the_models_write_as_many_tokens_as_they_may():
    model = benchmark_model("dit", CPU)
    batch = model.processor(requests(model, 1, (64, 64), edit=False))
    (rows, _) = model.reasoner.write(batch.inputs, 0.0, 30, None)
    assert [len(row) for row in rows] == [30]


@pytest.mark.parametrize("cached", [False, True])
def test_plain_code_has_the_same_losses(cached):
    timings, difference = compare_steps([str(ROOT / file) for file in RECIPE], 3, 1, CPU, cached)
    assert difference < 1e-4
    assert timings.runs.keys() == {FIT, BARE, PLAIN}
    assert all(run["steps"].wall > 0 for (run,) in timings.runs.values())


def test_ratios_are_of_the_same_turn():
    """A slow turn slows both: their ratio stays."""
    slow = {"slow": [{"a": Spent(cpu=2.0 * turn), "b": Spent(cpu=turn)} for turn in (1, 5, 1)]}
    fast = {"fast": [{"a": Spent(cpu=0.5 * turn), "b": Spent(cpu=turn)} for turn in (1, 5, 1)]}
    timings = Timings({**slow, **fast}, "cpu")
    assert timings.median("slow", "a") == 2
    ratio = timings.ratio("slow", "fast", "a")
    assert (ratio.median, ratio.low, ratio.high) == (4, 4, 4)
    assert str(timings.ratio("slow", "fast", WHOLE)) == "2.00x (2.00 to 2.00)"


def test_tasks_take_turns_and_stages_are_multiplied():
    order = []

    def task(name):
        def run(watch):
            order.append(name)
            with watch.stage("sleep", times=100):
                time.sleep(0.002)

        return run

    timings = in_turns({"a": task("a"), "b": task("b")}, repeats=2, device=CPU)
    assert order == ["a", "b"] * 3
    assert [len(runs) for runs in timings.runs.values()] == [2, 2]
    assert all(run["sleep"].wall >= 0.2 > run["sleep"].cpu for run in timings.runs["a"])
    assert Stopwatch(CPU).stages == {}


def test_exponents_are_slopes():
    assert scaling.exponent([0, 1, 2, 4, 8], [9, 3, 12, 48, 192]) == pytest.approx(2)
    assert scaling.exponent([1, 2, 4, 8], [5, 5, 5, 5]) == pytest.approx(0)


def test_growth_is_measured_counted_and_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "AXES", {"side": (64, 128)})
    monkeypatch.setattr(scaling, "COUNTED", {"side": (256,)})
    picture, numbers = tmp_path / "growth.png", tmp_path / "growth.json"
    main(["bench", "scaling", "--repeats", "1", "--output", str(picture), "--json", str(numbers), "--device", "cpu"])
    assert "Growth with side" in capsys.readouterr().out
    small, large, counted = json.loads(numbers.read_text())["measured"]["side"]
    assert counted["seconds"] == {}
    for stage, least in (("guide", 3), ("denoise", 2), ("decode", 3)):
        assert least < large["flops"][stage] / small["flops"][stage] < 6
    assert large["memory"]["decode"] > 2 * small["memory"]["decode"]
    assert np.asarray(Image.open(picture)).std() > 1


def test_stages_are_held_against_the_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(limits, "TOKENS", 2)
    monkeypatch.setattr(limits, "SIDE", 512)
    monkeypatch.setattr(limits, "NUMBERS", 2**20)
    file = tmp_path / "limits.json"
    main(["bench", "limits", "--backbone", "unet", "--repeats", "1", "--json", str(file), "--device", "cpu"])
    assert "farthest from its limit" in capsys.readouterr().out
    found = json.loads(file.read_text())["measured"]["unet"]
    for stage in found["stages"].values():
        arithmetic, reading = stage["flops"] / found["flops_a_second"], stage["bytes"] / found["bytes_a_second"]
        assert stage["limit"] == max(arithmetic, reading)
        assert stage["share"] == stage["limit"] / stage["seconds"]
    backbone = sum(weight.numel() for weight in benchmark_model("unet", CPU).backbone.parameters())
    assert found["stages"]["denoise"]["bytes"] == 4 * backbone
    token, reading = found["stages"]["write a token"], found["stages"]["read"]
    assert token["bytes"] == reading["bytes"]
    assert token["flops"] < reading["flops"] / 100


def test_reading_is_timed(tmp_path, capsys):
    main(["bench", "reading", "--rows", "300", "--repeats", "2", "--json", str(tmp_path / "reading.json")])
    printed = capsys.readouterr().out
    assert all(name in printed for name in (IN_ORDER, SHUFFLED, RANDOM))
    seconds = json.loads((tmp_path / "reading.json").read_text())["measured"]["seconds"]
    assert {name: len(runs) for name, runs in seconds.items()} == {IN_ORDER: 2, SHUFFLED: 2, RANDOM: 2}


def test_formats_of_shards_are_timed(tmp_path, capsys, monkeypatch):
    """Each reads the records that were written."""
    monkeypatch.setattr(shards, "GROUPS", (2, 64))
    monkeypatch.setattr(shards, "SHARD", 48)
    main(["bench", "shards", "--rows", "100", "--repeats", "1", "--json", str(tmp_path / "shards.json")])
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("Parquet, 2, local", "Parquet, 64, memory", "tar, local", "random rows"))
    found = json.loads((tmp_path / "shards.json").read_text())["measured"]
    assert {"Parquet, 2, local", "Parquet, 64, memory", "tar, local", "tar, memory"} <= set(found["seconds"])
    images = shards.jpegs(64)
    records = [{"id": str(row), "record": str(row), "prompt": f"p{row}", "chain": ""} for row in range(100)]
    folder = Folder(str(tmp_path / "formats"))
    shards.write_stream(folder, records, images, 3)
    shards.write_tars(folder, records, images)
    for read in (shards.open_stream(folder), shards.open_tars(folder)):
        for row in (0, 47, 48, 99):
            assert (read(row).prompt, read(row).image.content) == (f"p{row}", images[row % shards.DIFFERENT])


@pytest.mark.distributed
def test_a_run_of_two_ranks_ends_and_its_steps_are_timed(tmp_path, capsys):
    """Each run is a `got fit` that must end without an error on all ranks."""
    file = tmp_path / "ranks.json"
    recipe = [part for name in RECIPE for part in ("--recipe", str(ROOT / name))]
    main(["bench", "ranks", *recipe, "--steps", "3", "--repeats", "1", "--json", str(file)])
    assert "2 ranks" in capsys.readouterr().out
    measured = json.loads(file.read_text())["measured"]["ranks"]
    for runs in (measured["1"], measured["2"]):
        assert all(run[name] > 0 for run in runs for name in ("wall", "cpu", "memory"))


def test_startup_is_timed_in_processes_of_their_own(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(startup, "IMPORTS", "pass")
    monkeypatch.setattr(startup, "IMAGE", "sum(range(3_000_000))")
    main(["bench", "startup", "--repeats", "2", "--json", str(tmp_path / "startup.json")])
    measured = json.loads((tmp_path / "startup.json").read_text())["measured"]
    assert min(measured["image"]) > max(measured["imports"])
    assert "difference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inference", "--device", "nonsense"], "--device nonsense: there is no such device here"),
        (["inferense"], "inferense is no benchmark of got bench; did you mean 'inference'?"),
        (["training", "--recipe", "recipes/scenes_codec.yaml"], "measures recipes of a GoTSystem"),
    ],
)
def test_what_cannot_be_measured_is_one_line(capsys, words, message):
    assert message in refused(capsys, "bench", *words)


def test_loading_is_timed_over_decoding_and_over_bytes(tmp_path, capsys):
    file = tmp_path / "data.json"
    words = ("--images", "4", "--side", "32", "--records", "5000", "--repeats", "1", "--json", str(file))
    main(["bench", "data", *words])
    printed = capsys.readouterr().out
    assert "5,000 records are opened in" in printed
    measured = json.loads(file.read_text())["measured"]
    assert set(measured["seconds"]) == {
        *("decoding alone", "records", "stream", "bytes alone", "cached latents", "drawn scenes"),
    }
    assert all(run["samples"]["cpu"] >= 0 for runs in measured["seconds"].values() for run in runs)
