"""Opening a model runs nothing that its folder names: components and plain values alone are taken."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from refusals import refused
from small_system import small_settings, stirred_system

from got_core.errors import UserError
from got_core.pipelines import saving as pipeline_hub
from got_core.pipelines.pipeline import GoTPipeline
from got_core.training.recipe import build_model

CALLS = {
    "os.system": {"command": "touch {mark}"},
    "subprocess.getoutput": {"cmd": "touch {mark}"},
    "builtins.exec": {"source": "open('{mark}', 'w')"},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "saved"
    GoTPipeline(stirred_system(), (32, 32), small_settings()).save_pretrained(folder)
    return folder


@pytest.fixture
def config(saved, tmp_path):
    """Changes a copy of the saved folder's recipe, given the arguments of its system and a file that no one makes."""
    folder = tmp_path / "snapshots" / "copy"
    shutil.copytree(saved, folder)
    recipe = yaml.safe_load((saved / "config.yaml").read_text())

    def write(change) -> Path:
        change(recipe, recipe["model"]["init_args"])
        (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
        return folder

    return write


def call(path: str, mark: Path) -> dict:
    arguments = {name: value.format(mark=mark) for name, value in CALLS[path].items()}
    return {"class_path": path, "init_args": arguments}


def test_a_saved_folder_has_what_inference_needs_and_no_more(saved):
    recipe = yaml.safe_load((saved / "config.yaml").read_text())
    assert recipe.keys() == {"pipeline", "model", "image_size"}
    assert recipe["model"]["init_args"].keys() == {
        "reasoner", "guidance", "backbone", "codec", "objective",
        "generation_scales", "editing_scales", "sampling_steps", "max_chain_tokens",
    }  # fmt: skip


@pytest.mark.parametrize("path", CALLS)
@pytest.mark.parametrize("argument", ["optimizer", "learning_rates", "warmup_steps", "nothing_known"])
def test_arguments_of_training_are_not_built(config, tmp_path, path, argument):
    def change(recipe, arguments):
        arguments[argument] = call(path, tmp_path / "mark")

    pipe = GoTPipeline.from_pretrained(config(change), "cpu")
    assert pipe.system.optimizer is None
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("path", CALLS)
def test_arguments_of_training_are_not_built_of_a_run_either(tmp_path, path):
    settings = small_settings()
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": build_model(settings).state_dict()}, tmp_path / "checkpoints" / "last.ckpt")
    settings["init_args"]["optimizer"] = call(path, tmp_path / "mark")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": settings}))
    GoTPipeline.from_pretrained(tmp_path, "cpu", (32, 32))
    assert not (tmp_path / "mark").exists()


def nested(*names):
    """Puts a call where the last of some names stands."""

    def change(arguments, value):
        for name in names[:-1]:
            arguments = arguments[name]
        arguments[names[-1]] = value

    return change


@pytest.mark.parametrize("path", CALLS)
@pytest.mark.parametrize(
    ("put", "form", "words"),
    [
        (nested("backbone"), dict, "is not from an installed package"),
        (nested("objective"), dict, "is not from an installed package"),
        (nested("backbone"), yaml.safe_dump, "its backbone is not a class_path with init_args"),
        (nested("reasoner", "init_args", "config"), dict, "is no component"),
        (nested("reasoner", "init_args", "config"), yaml.safe_dump, "is no component"),
        (nested("reasoner", "init_args", "config", "text_config"), yaml.safe_dump, "is no component"),
        (nested("codec", "init_args", "patch"), dict, "is no component"),
        (nested("generation_scales"), dict, "is no component"),
        (nested("generation_scales"), yaml.safe_dump, "is no component"),
        (nested("sampling_steps"), dict, "is no component"),
    ],
)
def test_calls_are_refused_wherever_they_stand(config, tmp_path, path, put, form, words):
    folder = config(lambda recipe, arguments: put(arguments, form(call(path, tmp_path / "mark"))))
    with pytest.raises(UserError, match=words):
        GoTPipeline.from_pretrained(folder, "cpu")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("part", "path", "words"),
    [
        ("backbone", "torch.nn.Linear", "torch.nn.Linear is not a DenoisingBackbone"),
        ("backbone", "guidance.semantic_spatial.SemanticSpatialGuidance", "is not a DenoisingBackbone"),
        ("backbone", "torch.load", "torch.load is not a DenoisingBackbone"),
        ("backbone", "backbones.flow_dit.Nothing", "cannot be imported"),
        ("backbone", "pip.__main__.Backbone", "cannot be imported"),
        ("backbone", "nowhere.Backbone", "not from an installed package"),
        ("backbone", "antigravity.Backbone", "not from an installed package"),
        ("backbone", "..Backbone", "not from an installed package"),
        ("backbone", "", "not from an installed package"),
        ("codec", "got_core.interfaces.Reasoner", "is not a LatentCodec"),
    ],
)
def test_only_subclasses_of_the_interfaces_are_components(config, part, path, words):
    def change(recipe, arguments):
        arguments[part]["class_path"] = path

    with pytest.raises(UserError, match=words):
        GoTPipeline.from_pretrained(config(change), "cpu")


@pytest.mark.parametrize("system", ["os.system", "collections.OrderedDict", "helpers.System"])
def test_only_systems_are_opened(config, system):
    def change(recipe, arguments):
        recipe["model"]["class_path"] = system

    with pytest.raises(UserError, match="not from an installed package"):
        GoTPipeline.from_pretrained(config(change), "cpu")


OWN = """
from collections.abc import Callable
from torch import nn
from backbones.flow_dit import FlowDiT

class Own(FlowDiT):
    def __init__(self, latent_channels: int, token_dim: int, spatial_channels: int, reference_channels: int,
                 norm: type[nn.Module] = nn.LayerNorm, after: Callable[[], None] | None = None):
        super().__init__(latent_channels, token_dim, None, spatial_channels, reference_channels, 32, 2, 2, 2)
"""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, None),
        ({"norm": "torch.nn.LayerNorm"}, None),
        ({"norm": "torch.nn.RMSNorm"}, "Own.norm takes a class or a function"),
        ({"after": "os.getcwd"}, "Own.after takes a class or a function"),
    ],
)
def test_a_runs_own_components_are_opened_with_plain_values(tmp_path, monkeypatch, arguments, words):
    (tmp_path / "own_backbone.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = small_settings()
    channels = {"latent_channels": 48, "token_dim": 32, "spatial_channels": 48, "reference_channels": 48}
    settings["init_args"]["backbone"] = {"class_path": "own_backbone.Own", "init_args": {**channels, **arguments}}
    settings["init_args"]["reasoner"]["init_args"]["tokenizer"] = str(
        Path(__file__).parents[1] / "recipes" / "assets" / "scenes_tokenizer.json"
    )
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": build_model(settings).state_dict()}, tmp_path / "checkpoints" / "last.ckpt")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": settings}))
    if words is None:
        assert type(GoTPipeline.from_pretrained(tmp_path, "cpu", (32, 32)).system.backbone).__name__ == "Own"
        return
    with pytest.raises(UserError, match=words):
        GoTPipeline.from_pretrained(tmp_path, "cpu", (32, 32))


@pytest.mark.parametrize("text", ["${oc.env:HOME}", '{hidden_size: "\\u0024{oc.env:HOME}"}', '["\\x24{model}"]'])
@pytest.mark.parametrize("name", ["config", "tokenizer"])
def test_references_are_not_resolved(config, monkeypatch, text, name):
    monkeypatch.setenv("HOME", "/a secret")

    def change(recipe, arguments):
        arguments["reasoner"]["init_args"][name] = text

    with pytest.raises((UserError, FileNotFoundError)) as caught:
        GoTPipeline.from_pretrained(config(change), "cpu")
    assert "secret" not in str(caught.value)
    if (not text.startswith("[") and name == "config") or text.startswith("$"):
        assert "may not refer to other values" in str(caught.value)


class Marking:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("sharded", [True, False])
def test_other_weights_than_its_own_are_not_looked_at(config, tmp_path, capsys, sharded):
    folder = config(lambda recipe, arguments: None)
    last = folder / "checkpoints" / "last.ckpt"
    place = last / ".metadata" if sharded else last
    place.parent.mkdir(parents=True)
    place.write_bytes(pickle.dumps(Marking(tmp_path / "mark")))
    if sharded:
        (last / "meta.pt").write_bytes(place.read_bytes())
    GoTPipeline.from_pretrained(folder, "cpu")
    with pytest.raises(UserError, match="a saved model is opened by its folder"):
        GoTPipeline.from_pretrained(last, "cpu")
    root = Path(__file__).parents[1]
    recipe = ("--config", f"{root}/recipes/scenes_dit.yaml", f"--trainer.default_root_dir={tmp_path / 'new'}")
    assert "a saved model is opened by its folder" in refused(capsys, "fit", *recipe, "--weights", str(last))
    assert "is a saved model, which has no data" in refused(capsys, "validate", "--checkpoint", str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has its weights in model\.safetensors, which is missing"):
        GoTPipeline.from_pretrained(folder, "cpu")
    assert not (tmp_path / "mark").exists()


def test_of_the_hub_only_saved_models_are_opened(config, tmp_path, monkeypatch):
    def unmark(recipe, arguments):
        del recipe["pipeline"]
        for part in ("reasoner", "codec"):
            arguments[part]["init_args"] |= {
                name: str(value).removeprefix("folder://")
                for name, value in arguments[part]["init_args"].items()
                if str(value).startswith("folder://")
            }
        arguments["optimizer"] = call("os.system", tmp_path / "mark")

    folder = config(unmark)
    monkeypatch.setattr(pipeline_hub, "snapshot_download", lambda *arguments, **settings: str(folder))
    with pytest.raises(UserError, match=r"not a saved model \(its config.yaml lacks the key 'pipeline'\)"):
        GoTPipeline.from_pretrained("owner/model", "cpu")
    assert not (tmp_path / "mark").exists()


def test_files_of_the_hubs_cache_are_links(saved, tmp_path, monkeypatch):
    """As `snapshot_download` lays them out; a link that leaves the repository's folder is refused all the same."""
    repository = tmp_path / "models--owner--model"
    snapshot, blobs = repository / "snapshots" / "1", repository / "blobs"
    shutil.copytree(saved, blobs)
    for file in (path for path in blobs.rglob("*") if path.is_file()):
        link = snapshot / file.relative_to(blobs)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    monkeypatch.setattr(pipeline_hub, "snapshot_download", lambda *arguments, **settings: str(snapshot))
    GoTPipeline.from_pretrained("owner/model", "cpu")
    tokenizer = snapshot / "reasoner" / "tokenizer.json"
    tokenizer.unlink()
    tokenizer.symlink_to(saved / "reasoner" / "tokenizer.json")
    with pytest.raises(UserError, match="which is not in the folder"):
        GoTPipeline.from_pretrained("owner/model", "cpu")
    with pytest.raises(UserError, match="which is not in the folder"):
        GoTPipeline.from_pretrained(snapshot, "cpu")
