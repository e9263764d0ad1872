"""Memory of generating an image: predicted in shape alone as it is measured, and what fits which device."""

import torch

from got_core.benchmarks.inference import Request
from got_core.benchmarks.memory import peak_memory
from got_core.cli.main import main
from got_core.inspection.inference import InferenceMemory
from got_core.paths import ROOT

CPU = torch.device("cpu")


def test_what_is_predicted_is_what_is_measured():
    whole, tiled = peak_memory("unet", Request((128, 128), edit=True, tokens=20), CPU)
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


def test_settings_are_named_that_fit(capsys):
    recipe = ("--config", str(ROOT / "recipes" / "scenes_dit.yaml"))
    main(["inspect", "--inference", *recipe, "--dtype", "float32"])
    printed = capsys.readouterr().out
    assert "GB of an edit of 32x32 pixels in float32" in printed
    assert "--offload layer --tiling" in printed
    assert printed.splitlines()[-5:] == [f"{size} GB: all on the device" for size in (8, 12, 16, 24, 80)]
