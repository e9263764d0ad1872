"""Models saved at commit a8a5d36 open, and generate the same images as there."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from got_core import GoTPipeline
from got_core.diffusion.objectives import EpsilonDiffusion
from got_core.errors import UserError

FOLDER = Path(__file__).parents[1] / "fixtures" / "a8a5d36"
CHAIN = "a red circle (94,188),(469,562) (red) and a blue square (500,562),(900,962) (blue)"


@pytest.mark.parametrize("kind", ["saved", "run"])
def test_what_an_earlier_version_saved_opens_and_generates_the_same(kind):
    """A saved pipeline, and a run's checkpoint (without its optimizer's state, which inference does not read)."""
    pipe = GoTPipeline.from_pretrained(FOLDER / kind, "cpu", (32, 32))
    (image,) = pipe.generate(pipe.given_plan(CHAIN), seed=1).images
    expected = np.asarray(Image.open(FOLDER / f"{kind}.png")).astype(int)
    assert np.abs(np.asarray(image).astype(int) - expected).max() <= 1


def with_objective(folder, **removed):
    """A copy of the saved folder with an objective in its configuration as scenes_sdxl's had it at a8a5d36."""
    shutil.copytree(FOLDER / "saved", folder, dirs_exist_ok=True)
    recipe = yaml.safe_load((folder / "config.yaml").read_text())
    values = {"schedule": "scaled_linear", "beta_start": 0.00085, "prediction": "v_prediction", "noise_offset": 0.1}
    objective = {"class_path": "got_core.objectives.EpsilonDiffusion", "init_args": {**values, **removed}}
    recipe["model"]["init_args"]["objective"] = objective
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def test_removed_arguments_are_ignored_only_at_their_defaults(tmp_path):
    folder = with_objective(tmp_path, snr_gamma=None, solver="dpm_solver")
    pipe = GoTPipeline.from_pretrained(folder, "cpu", (32, 32))
    assert isinstance(pipe.model.objective, EpsilonDiffusion)
    assert pipe.model.objective.prediction == "v_prediction"
    pipe.save_pretrained(tmp_path / "again")
    assert (
        not {"snr_gamma", "solver"}
        & yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())["model"]["init_args"]["objective"][
            "init_args"
        ].keys()
    )
    for name, value in {"snr_gamma": 5.0, "solver": "ddim", "snr_gama": None}.items():
        with pytest.raises(UserError, match=f"EpsilonDiffusion takes no '{name}'"):
            GoTPipeline.from_pretrained(with_objective(tmp_path, **{name: value}), "cpu")
