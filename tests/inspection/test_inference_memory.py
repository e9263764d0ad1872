"""Memory of generating an image: predicted in shape alone as it is measured, and what fits which device."""

import pytest
import torch
from refusals import refused

from got_core.benchmarks.inference import Request
from got_core.benchmarks.memory import compare_memory
from got_core.cli.main import main
from got_core.inspection.inference import ROOM, InferenceMemory
from got_core.paths import ROOT

CPU = torch.device("cpu")


def test_what_is_predicted_is_what_is_measured():
    whole, tiled = compare_memory("unet", Request((128, 128), edit=True, tokens=20), CPU)
    for found in (whole, tiled):
        assert abs(found.predicted / found.measured - 1) < 0.05
    assert tiled.measured < whole.measured
    assert tiled.predicted < whole.predicted


def test_of_what_is_offloaded_only_what_computes_counts():
    weights = {"reasoner": 70, "guidance": 1, "backbone": 50, "codec": 3}
    memory = InferenceMemory(weights, layer=6, activations={"read": 2, "guide": 9, "denoise": 4, "decode": 8})
    assert memory.stages() == {"read": 126, "guide": 133, "denoise": 128, "decode": 132}
    assert memory.stages("model") == {"read": 72, "guide": 13, "denoise": 54, "decode": 11}
    assert memory.stages("layer") == {"read": 8, "guide": 13, "denoise": 10, "decode": 11}
    assert [memory.peak(offload) for offload in (None, "model", "layer")] == [133, 72, 13]


def test_settings_are_named_that_fit(capsys, monkeypatch):
    recipe = ("--config", str(ROOT / "recipes" / "scenes_dit.yaml"))
    main(["inspect", "--inference", *recipe, "--dtype", "float32", "--size", "1024x1024"])
    printed = capsys.readouterr().out
    assert "GB of an edit of 1024x1024 pixels in float32" in printed
    assert printed.splitlines()[-5:] == [f"{size} GB: all on the device" for size in (8, 12, 16, 24, 80)]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
    peaks = {row[0]: float(row[-1]) for row in rows}
    assert list(peaks)[1:] == ["--tiling", *(f"--offload {how}{tiles}" for how in ("model", "layer")
                                             for tiles in ("", " --tiling"))]  # fmt: skip
    assert peaks["--offload layer --tiling"] < peaks["--tiling"] < peaks["all on the device"]
    # Devices between the peaks, of which a part is left free.
    between = (peaks["--tiling"] + peaks["all on the device"]) / 2
    devices = (0.9 * peaks["--offload layer --tiling"] / ROOM, between / ROOM)
    monkeypatch.setattr("got_core.inspection.inference.DEVICES", devices)
    main(["inspect", "--inference", *recipe, "--dtype", "float32", "--size", "1024x1024"])
    least, more = capsys.readouterr().out.splitlines()[-2:]
    assert least.endswith(" GB: too little")
    assert more.endswith(" GB: --tiling")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--inference", "--memory", "8GB"), "are of training"),
        (("--inference", "--devices", "2"), "are of training"),
        (("--dtype", "float32"), "--dtype is of --inference"),
        (("--inference", "--size", "33x33"), "cannot be generated"),
    ],
)
def test_options_that_do_not_go_together_are_refused(capsys, options, words):
    assert words in refused(capsys, "inspect", "--config", str(ROOT / "recipes" / "scenes_dit.yaml"), *options)
