"""Opening a model runs nothing that its folder names: components and plain values alone are taken."""

import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from refusals import refused
from safetensors.torch import load_file, save_file
from small_system import small_settings, stirred_system

from got_core import GoTModel
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
    GoTPipeline(stirred_system().model, (32, 32), small_settings()).save_pretrained(folder)
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
        "generation_scales", "editing_scales", "sampling_steps", "max_chain_tokens", "fast",
    }  # fmt: skip


@pytest.mark.parametrize("path", CALLS)
@pytest.mark.parametrize("argument", ["optimizer", "learning_rates", "warmup_steps", "nothing_known"])
def test_arguments_of_training_are_not_built(config, tmp_path, path, argument):
    def change(recipe, arguments):
        arguments[argument] = call(path, tmp_path / "mark")

    pipe = GoTPipeline.from_pretrained(config(change), "cpu")
    assert set(vars(pipe.model)["_modules"]) == {"reasoner", "guidance", "backbone", "codec"}
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
        (nested("reasoner", "init_args", "config"), yaml.safe_dump, "cannot be built from its arguments"),
        (
            nested("reasoner", "init_args", "config", "text_config"),
            yaml.safe_dump,
            "cannot be built from its arguments",
        ),
        (nested("codec", "init_args", "patch"), dict, "is no component"),
        (nested("codec", "init_args", "patch.class_path"), dict, "is no component"),
        (nested("generation_scales"), dict, "is no component"),
        (nested("generation_scales"), yaml.safe_dump, "generation_scales must have numbers"),
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
        ("backbone", "pip.__main__.Backbone", "not the path of a public class"),
        ("backbone", "nowhere.Backbone", "not from an installed package"),
        ("backbone", "antigravity.Backbone", "not from an installed package"),
        ("backbone", "..Backbone", "not the path of a public class"),
        ("backbone", "", "not the path of a public class"),
        ("backbone", "FlowDiT", "not the path of a public class"),
        ("codec", "got_core.interfaces.Reasoner", "is not a LatentCodec"),
    ],
)
def test_only_subclasses_of_the_interfaces_are_components(config, part, path, words):
    def change(recipe, arguments):
        arguments[part]["class_path"] = path

    with pytest.raises(UserError, match=words):
        GoTPipeline.from_pretrained(config(change), "cpu")


def test_the_models_own_class_is_not_looked_at(config):
    def change(recipe, arguments):
        recipe["model"]["class_path"] = "os.system"

    assert isinstance(GoTPipeline.from_pretrained(config(change), "cpu").model, GoTModel)


OWN = """
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from torch import nn
from backbones.flow_dit import FlowDiT

@dataclass
class Form:
    depth: int

class Own(FlowDiT):
    def __init__(self, latent_channels: int, token_dim: int, spatial_channels: int, reference_channels: int,
                 norm: type[nn.Module] = nn.LayerNorm, after: Callable[[], None] | None = None,
                 size: tuple[int, int] = (1, 2), form: Form | None = None, place: Path = Path()):
        if after is not None and not callable(after):
            raise ValueError(f"after is a {type(after).__name__}")
        assert norm is nn.LayerNorm and isinstance(size, tuple) and isinstance(place, Path)
        assert form is None or isinstance(form, Form)
        super().__init__(latent_channels, token_dim, None, spatial_channels, reference_channels, 32, 2, 2, 2)
"""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, None),
        ({"norm": "torch.nn.LayerNorm"}, None),
        ({"after": "os.getcwd"}, "after is a str"),
        ({"size": [3, 4], "form": {"depth": 2}, "place": "here"}, None),
    ],
)
def test_a_runs_own_components_are_opened_with_plain_values(tmp_path, monkeypatch, arguments, words):
    (tmp_path / "own_backbone.py").write_text(OWN)
    monkeypatch.delitem(sys.modules, "own_backbone", raising=False)
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
        with pytest.raises(UserError, match="name the folder by --trust-code FOLDER"):
            GoTPipeline.from_pretrained(tmp_path, "cpu", (32, 32))
        opened = GoTPipeline.from_pretrained(tmp_path, "cpu", (32, 32), trust_code=tmp_path)
        assert type(opened.model.backbone).__name__ == "Own"
        return
    with pytest.raises(UserError, match=words):
        GoTPipeline.from_pretrained(tmp_path, "cpu", (32, 32), trust_code=tmp_path)


@pytest.mark.parametrize("text", ["${oc.env:HOME}", '{hidden_size: "\\u0024{oc.env:HOME}"}', '["\\x24{model}"]'])
@pytest.mark.parametrize("name", ["config", "tokenizer"])
def test_references_are_not_resolved(config, monkeypatch, text, name):
    monkeypatch.setenv("HOME", "/a secret")

    def change(recipe, arguments):
        arguments["reasoner"]["init_args"][name] = text

    words = "may not refer" if text.startswith("$") else "cannot be built" if name == "config" else "no other"
    with pytest.raises(UserError, match=words) as caught:
        GoTPipeline.from_pretrained(config(change), "cpu")
    assert "secret" not in str(caught.value)


def aliases(levels: int) -> str:
    """YAML of some kilobytes that holds 2 ** levels values."""
    lines = ["a0: &a0 [1, 1]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, levels))]
    return "bomb:\n" + "".join(f"  {line}\n" for line in lines) + f"again: *a{levels - 1}\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (nested("reasoner", "init_args", "config", "x"), "more than 10,000 values"),
        (nested("generation_scales"), "more than 10,000 values"),
        (nested("sampling_steps"), "more than 10,000 values"),
    ],
)
def test_values_that_are_too_many_are_refused_at_once(config, change, words):
    bomb = yaml.safe_load(aliases(40))["again"]
    folder = config(lambda recipe, arguments: change(arguments, bomb))
    with pytest.raises(UserError, match=words):
        GoTPipeline.from_pretrained(folder, "cpu")


def loop(recipe, arguments):
    values = arguments["reasoner"]["init_args"]["config"]
    values["itself"] = values


def deep(recipe, arguments):
    value: list = []
    for _ in range(100):
        value = [value]
    arguments["reasoner"]["init_args"]["config"] = value


def put(value, *names):
    return lambda recipe, arguments: nested(*names)(arguments, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (loop, "more than 10,000 values or more than 20 levels"),
        (deep, "more than 10,000 values or more than 20 levels"),
        (put(10**11, "backbone", "init_args", "width"), "out of bounds"),
        (put(10**8, "backbone", "init_args", "depth"), "more than 20,000 modules"),
        (put(10**8, "reasoner", "init_args", "num_tokens"), "num_tokens must be 1 to 10,000"),
        (put(8 * 10**7, "reasoner", "init_args", "image_size"), "image_size must be"),
        (put(10**9, "reasoner", "init_args", "config", "vision_config", "depth"), "more than 20,000 modules"),
        (put(10**9, "codec", "init_args", "patch"), "copy: "),
        (put("x" * 200_000, "reasoner", "init_args", "generation_template"), "a text of more than"),
        (put(0, "backbone", "init_args", "heads"), "FlowDiT"),
        (put(6, "backbone", "init_args", "dept"), "FlowDiT takes no 'dept'; did you mean 'depth'"),
        (put("a.b", "backbone", "init_args", "depth.class_path"), "FlowDiT takes no 'depth.class_path'"),
        (put("many", "backbone", "init_args", "width"), "FlowDiT"),
        (put(None, "backbone", "init_args", "width"), "FlowDiT"),
        (put(-3, "sampling_steps"), "sampling_steps must be a whole number of at least 1"),
        (put(True, "sampling_steps"), "sampling_steps must be a whole number"),
        (put({"semantic": "a"}, "generation_scales"), "generation_scales"),
        (put({"nothing": 1.0}, "generation_scales"), "generation_scales"),
        (put(4, "fast"), "fast must have steps and may have a guidance_interval"),
        (put({"guidance_interval": [0, 1]}, "fast"), "fast must have steps"),
        (put({"steps": 4, "more": 1}, "fast"), "fast must have steps"),
        (put({"steps": -4}, "fast"), "steps must be a whole number"),
        (put({"steps": True}, "fast"), "steps must be a whole number"),
        (put({"steps": 4, "guidance_interval": [3, 1]}, "fast"), "guidance_interval must be two times"),
        (put([1, 2], "objective"), "its objective is not a class_path"),
        (put({"class_path": "got_core.diffusion.codecs._Frozen"}, "codec"), "not the path of a public class"),
        (put("/tmp/tokenizer.json", "reasoner", "init_args", "tokenizer"), "which is not in the folder"),
        (put("~/tokenizer.json", "reasoner", "init_args", "tokenizer"), "which is not in the folder"),
        (put("../tokenizer.json", "reasoner", "init_args", "tokenizer"), "which is not in the folder"),
        (put("recipes/assets/scenes_tokenizer.json", "reasoner", "init_args", "tokenizer"), "reads no others"),
        (put("owner/name", "reasoner", "init_args", "tokenizer"), "reads no others"),
    ],
)
def test_what_cannot_be_is_one_line(config, change, words):
    with pytest.raises(UserError, match=words):
        GoTPipeline.from_pretrained(config(change), "cpu")


@pytest.mark.parametrize(
    "text", ["!!bool x", "!!timestamp x", "!!int ''", "[" * 3000, "9" * 5000, "2020-99-99", "[1, 2", "a: [", "\x00"]
)
def test_what_yaml_cannot_read_is_one_line(config, text):
    folder = config(lambda recipe, arguments: None)
    (folder / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml"):
        GoTPipeline.from_pretrained(folder, "cpu")


@pytest.mark.parametrize("damage", [lambda text: "{", lambda text: "[]", lambda text: text[:-5], lambda text: "\x00"])
def test_a_broken_tokenizer_is_one_line(config, damage):
    folder = config(lambda recipe, arguments: None)
    tokenizer = folder / "reasoner" / "tokenizer.json"
    tokenizer.write_text(damage(tokenizer.read_text()))
    with pytest.raises(UserError, match="copy: "):
        GoTPipeline.from_pretrained(folder, "cpu")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("{", "Expecting property name"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", ""),
        ('{"_class_name": "os.system"}', "diffusers has no scheduler 'os.system'"),
        ('{"_class_name": "ConfigMixin"}', "diffusers has no scheduler 'ConfigMixin'"),
        ('{"_class_name": ["DDIMScheduler"]}', ""),
        ('{"_class_name": "DDIMScheduler", "num_train_timesteps": 100000000000}', "is 1e[+]11, which is out of bounds"),
        ('{"_class_name": "DDIMScheduler", "trained_betas": "a"}', ""),
    ],
)
def test_a_broken_scheduler_is_one_line(config, settings, words):
    folder = config(lambda recipe, arguments: None)
    (folder / "scheduler_config.json").write_text(settings)
    with pytest.raises(UserError, match=rf"scheduler_config\.json: .*{words}"):
        GoTPipeline.from_pretrained(folder, "cpu")


@pytest.mark.parametrize("file", ["model.safetensors", "reasoner/tokenizer.json", "extra.json"])
def test_links_that_leave_the_folder_are_refused(config, tmp_path, file):
    folder = config(lambda recipe, arguments: None)
    outside = tmp_path / "outside"
    if (folder / file).exists():
        (folder / file).rename(outside)
    else:
        outside.write_text("{}")
    (folder / file).symlink_to(outside)
    with pytest.raises(UserError, match="is not a file in the folder"):
        GoTPipeline.from_pretrained(folder, "cpu")


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "pipe"])
def test_what_is_no_file_is_refused(config, name):
    folder = config(lambda recipe, arguments: None)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises((UserError, FileNotFoundError)):
        GoTPipeline.from_pretrained(folder, "cpu")


def test_weights_may_not_be_left_to_other_files(config):
    folder = config(lambda recipe, arguments: None)
    tensors = load_file(folder / "model.safetensors")
    for described in ('["codec.mean"]', "5", "[[1]]", "{"):
        save_file(tensors, folder / "model.safetensors", metadata={"in_base": described})
        with pytest.raises(UserError, match=r"model\.safetensors"):
            GoTPipeline.from_pretrained(folder, "cpu")


@pytest.mark.parametrize("package", ["nvidia", "attackmod", "playwright"])
def test_the_working_directory_holds_no_installed_packages(config, tmp_path, monkeypatch, package):
    """Not beside a namespace package, with metadata of its own, or in front of what is installed."""
    place = tmp_path / "working"
    module = place / package / "evil.py"
    module.parent.mkdir(parents=True)
    module.write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    (place / "foo-1.dist-info").mkdir()
    (place / "foo-1.dist-info" / "top_level.txt").write_text("attackmod\n")
    (place / "foo-1.dist-info" / "METADATA").write_text("Name: foo\nVersion: 1\n")
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))

    def change(recipe, arguments):
        arguments["backbone"]["class_path"] = f"{package}.evil.X"

    with pytest.raises(UserError, match="not from an installed package"):
        GoTPipeline.from_pretrained(config(change), "cpu")
    assert not (tmp_path / "mark").exists()


def test_own_classes_are_used_from_the_folder_that_the_user_trusts_and_no_other(config, tmp_path, monkeypatch):
    own, other = tmp_path / "own", tmp_path / "other"
    for folder in (own, other):
        folder.mkdir()
    (own / "trusted_backbone.py").write_text(
        "from backbones.flow_dit import FlowDiT\n\n\nclass Mine(FlowDiT):\n    pass\n"
    )
    (other / "elsewhere_backbone.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    monkeypatch.setattr("sys.path", [*sys.path, str(other)])

    def named(path):
        def change(recipe, arguments):
            arguments["backbone"]["class_path"] = path
            recipe["trust_code"] = arguments["trust_code"] = str(other)

        return config(change)

    folder = named("trusted_backbone.Mine")
    with pytest.raises(UserError, match="name the folder by --trust-code FOLDER"):
        GoTPipeline.from_pretrained(folder, "cpu")
    with pytest.raises(UserError, match="not from an installed package"):
        GoTPipeline.from_pretrained(folder, "cpu", trust_code=other)
    with pytest.raises(UserError, match="not a folder"):
        GoTPipeline.from_pretrained(folder, "cpu", trust_code=tmp_path / "nowhere")
    assert type(GoTPipeline.from_pretrained(folder, "cpu", trust_code=own).model.backbone).__name__ == "Mine"
    with pytest.raises(UserError, match="not from an installed package"):
        GoTPipeline.from_pretrained(named("elsewhere_backbone.X"), "cpu", trust_code=own)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("kind", ["saved", "run"])
def test_a_folder_that_is_the_working_directory_runs_no_code_of_its_own(config, tmp_path, monkeypatch, kind):
    """A run is opened by the same rules as a saved model, wherever the user stands."""

    def change(recipe, arguments):
        arguments["backbone"]["class_path"] = "inner_backbone.Mine"
        if kind == "run":
            del recipe["pipeline"]

    folder = config(change)
    (folder / "inner_backbone.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(UserError, match="not from an installed package"):
        GoTPipeline.from_pretrained(".", "cpu", (32, 32))
    assert not (tmp_path / "mark").exists()


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
    with pytest.raises(UserError, match="is not a file in the folder"):
        GoTPipeline.from_pretrained("owner/model", "cpu")
    with pytest.raises(UserError, match="is not a file in the folder"):
        GoTPipeline.from_pretrained(snapshot, "cpu")
