"""The released checkpoint in a folder of ours generates as the published algorithm; errors name what does not fit."""

import errno
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from released_system import ReleasedSystem, Scales, base_folders, released_names
from safetensors.torch import load_file, save_file

from got_core.cli.main import main
from got_core.data.images import image_tensor
from got_core.errors import UserError
from got_core.paths import ROOT
from got_core.pipelines.conversation import Conversation
from got_core.pipelines.pipeline import GoTPipeline
from got_core.planning.plan import Plan
from got_core.training.recipe import build_model
from got_core.types import Step
from got_core.weights.checkpoints import read_system_weights, read_tensors, write_system_weights
from got_core.weights.files import new_folder
from got_core.weights.official import convert

RECIPE = ROOT / "tests" / "fixtures" / "tiny_official.yaml"
STEPS, SEED = 4, 3
BOX = "<|box_start|>({}),({})<|box_end|> ({})"
CHAIN = (
    f"a circle {BOX.format('125,125', '500,625', 'red')} to the left of a square "
    f"{BOX.format('500,250', '875,750', 'blue')}."
)
BOXES = [((125, 125, 500, 625), "red"), ((500, 250, 875, 750), "blue")]
ODD = [((367, 89, 640, 998), "red"), ((7, 613, 8, 999), "teal"), ((0, 0, 999, 999), "navy")]

ROWS = "trainable_tokens_delta.default"
EMBEDDING = "mllm.base_model.model.model.language_model.embed_tokens"
EMBED, HEAD = "mllm.base_model.model.model.embed_tokens", "mllm.base_model.model.lm_head"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    base_folders(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "source.png")
    return folder


@pytest.fixture(scope="module")
def released(place):
    torch.manual_seed(1)
    return ReleasedSystem(place)


@pytest.fixture(scope="module")
def tensors(released):
    return released_names(released.state_dict())


@pytest.fixture(scope="module")
def imported(place, tensors):
    torch.save(tensors, place / "got.bin")
    run(place, place / "got.bin", place / "imported")
    return place / "imported"


def run(place, checkpoint, output):
    bases = ["--qwen", str(place / "qwen"), "--sdxl", str(place / "sdxl")]
    main(["import-official", str(checkpoint), "--config", str(RECIPE), *bases, "--output", str(output)])


def refused(capsys, place, checkpoint, output):
    """The one line that is printed, after it is seen that nothing was written."""
    with pytest.raises(SystemExit) as stop:
        run(place, checkpoint, output)
    assert stop.value.code == 2
    assert list(output.parent.glob(f"*{output.name}*")) == []
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("got: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("chain", "boxes"),
    [
        (CHAIN, BOXES),
        (CHAIN.replace(" (red)", ""), BOXES[1:]),
        ("a circle to the left of a square.", []),
        (" and ".join(f"a box {BOX.format(f'{x1},{y1}', f'{x2},{y2}', name)}" for (x1, y1, x2, y2), name in ODD), ODD),
    ],
    ids=["boxes", "a box without a colour", "no boxes", "boxes of odd pixels"],
)
@pytest.mark.parametrize("edit", [False, True], ids=["text-to-image", "edit"])
def test_images_are_those_of_the_published_algorithm(place, released, imported, edit, chain, boxes):
    scales = Scales(4.0, 3.0, 1.5) if edit else Scales(7.5, 4.0, 1.0)
    source = Image.open(place / "source.png") if edit else None
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(SEED * 1_000_003))
    expected = released.draw("two things", chain, boxes, source, noise, scales, STEPS)
    pipeline = GoTPipeline.from_pretrained(imported, "cpu")
    plan = pipeline.given_plan(chain, "two things", source, (64, 64))
    image = pipeline.generate(plan, seed=SEED, num_inference_steps=STEPS, output_type="pt").images[0] * 2 - 1
    torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)
    assert (image.abs() < 1).float().mean() > 0.5
    other = released.draw("two things", chain, [BOXES[0]], source, noise, scales, STEPS)
    assert (other - expected).abs().max() > 1e-2


@pytest.mark.parametrize("edit", [False, True], ids=["text-to-image", "edit"])
def test_steps_are_those_of_the_released_loop(place, released, imported, edit):
    """A second image of one request: the reasoner sees the first one, which is the reference of the second."""
    scales = Scales(4.0, 3.0, 1.5)
    source = Image.open(place / "source.png") if edit else None
    first = Image.fromarray(np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    before = [("first a circle", first), ("then a square", first.transpose(Image.Transpose.ROTATE_90))]
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(SEED * 1_000_003))
    expected = released.draw("two things", CHAIN, BOXES, source, noise, scales, STEPS, before)
    pipeline = GoTPipeline.from_pretrained(imported, "cpu")
    steps = tuple(Step(chain, image_tensor(image)) for chain, image in before)
    plan = replace(pipeline.given_plan(CHAIN, "two things", source, (64, 64)), steps=steps)
    image = pipeline.generate(plan, seed=SEED, num_inference_steps=STEPS, output_type="pt").images[0] * 2 - 1
    torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)
    batch = pipeline.model.processor([plan.sample(), replace(plan, steps=()).sample()])
    goes_on = [released.next_token("two things", CHAIN, source, each) == "<|vision_start|>" for each in (before, [])]
    assert pipeline.model.reasoner.continues(batch, [CHAIN, CHAIN]) == goes_on


def test_images_of_one_request_follow_until_the_reasoner_adds_none(imported, monkeypatch):
    pipeline = GoTPipeline.from_pretrained(imported, "cpu")
    answers = iter([[True], [True], [False]])
    monkeypatch.setattr(pipeline.model.reasoner, "continues", lambda batch, chains: next(answers))
    outputs = list(pipeline.steps("two things", seed=1, num_inference_steps=1))
    assert [len(output.plans[0].steps) for output in outputs] == [0, 1, 2]
    assert torch.equal(outputs[2].plans[0].steps[1].image, image_tensor(outputs[1].images[0]))
    assert len(list(pipeline.steps("two things", most=1, num_inference_steps=1))) == 1


def test_an_imported_model_is_not_given_earlier_requests(imported):
    """The released model was trained without; it sees the image that they led to."""
    pipeline = GoTPipeline.from_pretrained(imported, "cpu")
    assert not pipeline.model.reasoner.reads_earlier
    processor = pipeline.model.processor
    assert processor.prompt_ids("make it red", True, ("a dog",)) == processor.prompt_ids("make it red", True)
    conversation = Conversation(pipeline, Image.new("RGB", (64, 64)))
    conversation.append(Plan("a dog", "a dog", (64, 64)), Image.new("RGB", (64, 64)), 0)
    with pytest.warns(UserWarning, match="is not given earlier requests"):
        conversation.plan("make it red")


def test_a_saved_folder_needs_no_base_folder(place, tensors, tmp_path):
    """Adapters, wide first convolution, posterior and all: what is saved is the system, not the way to it."""
    bases = shutil.copytree(place, tmp_path / "bases", ignore=shutil.ignore_patterns("imported", "got.bin"))
    torch.save(tensors, bases / "got.bin")
    run(bases, bases / "got.bin", tmp_path / "imported")
    pipeline = GoTPipeline.from_pretrained(tmp_path / "imported", "cpu")
    plans = [pipeline.given_plan(CHAIN, "two things"), pipeline.given_plan(CHAIN, "one thing")]
    expected = pipeline.generate(plans, num_inference_steps=2, output_type="pt").images
    written = pipeline.plan("two things", Image.open(place / "source.png"))
    pipeline.save_pretrained(tmp_path / "saved")
    shutil.rmtree(bases)
    shutil.rmtree(tmp_path / "imported")
    moved = shutil.move(tmp_path / "saved", tmp_path / "moved")
    again = GoTPipeline.from_pretrained(moved, "cpu")
    assert torch.equal(again.generate(plans, num_inference_steps=2, output_type="pt").images, expected)
    assert again.plan("two things", Image.open(place / "source.png"))[0].chain == written[0].chain
    again.save_pretrained(tmp_path / "twice")
    assert (tmp_path / "twice" / "config.yaml").read_text() == (moved / "config.yaml").read_text()
    assert read_tensors(tmp_path / "twice").keys() == read_tensors(moved).keys()


def test_scheduler_and_repetition_penalty_are_those_of_the_base_folders(place, tensors, tmp_path, capsys):
    """SDXL's own scheduler, and what Qwen2.5-VL-3B-Instruct says about generation."""
    bases = shutil.copytree(place, tmp_path / "bases", ignore=shutil.ignore_patterns("imported", "got.bin"))
    config = {
        "_class_name": "EulerDiscreteScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "clip_sample": False, "interpolation_type": "linear", "num_train_timesteps": 1000,
        "prediction_type": "epsilon", "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
        "timestep_spacing": "leading", "trained_betas": None, "use_karras_sigmas": False,
    }  # fmt: skip
    file = bases / "sdxl" / "scheduler" / "scheduler_config.json"
    file.parent.mkdir()
    file.write_text(json.dumps(config))
    generation = {"do_sample": True, "repetition_penalty": 1.5, "temperature": 1e-6}
    (bases / "qwen" / "generation_config.json").write_text(json.dumps(generation))
    torch.save(tensors, bases / "got.bin")
    run(bases, bases / "got.bin", tmp_path / "imported")
    pipeline = GoTPipeline.from_pretrained(tmp_path / "imported", "cpu")
    assert type(pipeline.scheduler).__name__ == "EulerDiscreteScheduler"
    assert pipeline.scheduler.config.timestep_spacing == "leading"
    assert pipeline.scheduler.config.steps_offset == 1
    written = yaml.safe_load((tmp_path / "imported" / "config.yaml").read_text())["model"]["init_args"]
    assert written["reasoner"]["init_args"]["repetition_penalty"] == 1.5
    config["beta_end"] = 0.05
    file.write_text(json.dumps(config))
    line = refused(capsys, bases, bases / "got.bin", tmp_path / "refused")
    assert "EulerDiscreteScheduler does not fit EpsilonDiffusion" in line


def test_the_commands_open_the_folder(place, imported, tmp_path, capsys):
    (tmp_path / "chain.txt").write_text(CHAIN)
    options = ["--chain", str(tmp_path / "chain.txt"), "--steps", "1", "--device", "cpu"]
    main(["generate", "two", "--checkpoint", str(imported), "--output", str(tmp_path / "out"), *options])
    source = str(place / "source.png")
    main(["edit", source, "move", "--checkpoint", str(imported), "--output", str(tmp_path / "edited"), *options])
    for folder, size in (("out", (64, 64)), ("edited", (80, 48))):
        assert Image.open(tmp_path / folder / "image.png").size == size
    assert yaml.safe_load((imported / "config.yaml").read_text())["model"]["init_args"]["guidance"]["class_path"]
    assert sorted(path.name for path in imported.iterdir()) == ["config.yaml", "model.safetensors"]


def test_only_what_the_base_folders_lack_is_written(imported, tensors):
    written = load_file(imported / "model.safetensors")
    names = {name.removeprefix("reasoner.mllm.") for name in written if name.startswith("reasoner.")}
    assert all("lora_" in name or name.endswith("embed_tokens.token_adapter." + ROWS) for name in names)
    assert not any(name.startswith("codec.") for name in written)
    assert sum(name.startswith("backbone.unet.") for name in written) == sum(
        name.startswith("unet.") for name in tensors
    )
    rows = written[f"reasoner.{EMBEDDING}.token_adapter.{ROWS}"]
    assert torch.equal(rows, tensors["mllm.base_model.model.model.embed_tokens.weight"][-6:])


def test_an_imported_folder_can_be_scored_but_is_no_training_state(imported, tmp_path, capsys):
    folder = shutil.copytree(imported, tmp_path / "copy")
    scenes = {"class_path": "got_core.data.scenes.dataset.ScenesDataset", "init_args": {"length": 4, "size": 64}}
    data = {"train": [{"dataset": scenes, "weight": 1.0}], "validation": scenes, "num_workers": 0}
    scores = {"class_path": "got_core.evaluation.callbacks.FinalScores"}
    changes = {
        "data": {"init_args": data},
        "trainer": {"callbacks": [scores], "accelerator": "cpu", "enable_progress_bar": False},
        "model": {"init_args": {"sampling_steps": 1, "max_chain_tokens": 8}},
    }
    (tmp_path / "changes.yaml").write_text(json.dumps(changes))
    main(["validate", "--checkpoint", str(folder), "--config", str(tmp_path / "changes.yaml")])
    assert json.loads((folder / "metrics.json").read_text())["chain_parses"] is not None
    resumed = ["--config", str(folder / "config.yaml"), "--config", str(tmp_path / "changes.yaml")]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", *resumed, "--ckpt_path", str(folder / "model.safetensors")])
    assert "has no training state: begin a run with its weights by got fit --weights" in capsys.readouterr().err


def test_other_base_weights_than_those_of_the_import_are_refused(place, imported, tmp_path):
    base = shutil.copytree(place / "sdxl", tmp_path / "sdxl")
    tensors = load_file(base / "vae" / "diffusion_pytorch_model.safetensors")
    save_file(
        {name: tensor + 1 for name, tensor in tensors.items()}, base / "vae" / "diffusion_pytorch_model.safetensors"
    )
    folder = shutil.copytree(imported, tmp_path / "copy")
    recipe = (folder / "config.yaml").read_text().replace(str(place / "sdxl"), str(base))
    (folder / "config.yaml").write_text(recipe)
    with pytest.raises(UserError, match=r"leaves codec\.autoencoder to .*, but the weights loaded from .* are others"):
        GoTPipeline.from_pretrained(folder, "cpu")


def new_layout(name):
    """The decoder's and the tower's places as transformers names them now."""
    name = re.sub(r"^(mllm\.base_model\.model\.)model\.(?!visual)", r"\1model.language_model.", name)
    return name.replace("mllm.base_model.model.visual.", "mllm.base_model.model.model.visual.")


def trained_whole(name):
    """Embeddings and norms as peft's `modules_to_save` has them."""
    modules = rf"({EMBED}|{HEAD}|mllm\..*\.input_layernorm|mllm\..*\.model\.norm)"
    return re.sub(rf"^{modules}\.weight$", r"\1.modules_to_save.default.weight", name)


NAMINGS = {
    "without an adapter's name": lambda name: re.sub(r"(lora_[AB])\.default", r"\1", name),
    "without base_layer": lambda name: name.replace(".base_layer", ""),
    "without peft's prefix": lambda name: name.replace("mllm.base_model.model.", "mllm."),
    "the present layout": new_layout,
    "modules trained whole": trained_whole,
}


def settings(place):
    """The recipe's model with its base folders."""
    model = yaml.safe_load(RECIPE.read_text())["model"]
    for part, base in {"reasoner": "qwen", "backbone": "sdxl", "codec": "sdxl"}.items():
        model["init_args"][part]["init_args"]["pretrained"] = str(place / base)
    return model


def converted(model, checkpoint):
    return convert(lambda: build_model(model), checkpoint, ("reasoner", "backbone", "codec"))


def without(*endings):
    return lambda state: {name: tensor for name, tensor in state.items() if not name.endswith(endings)}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_gives_the_same_weights(place, imported, tensors, tmp_path, naming):
    renamed = {NAMINGS[naming](name): tensor for name, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    before = {
        name.replace("modules_to_save.default", "original_module"): tensor + 1
        for name, tensor in renamed.items()
        if "modules_to_save" in name
    }
    torch.save({**renamed, **before}, tmp_path / "got.pt")
    result = converted(settings(place), tmp_path / "got.pt")
    assert same(result.weights, load_file(imported / "model.safetensors"))
    assert set(result.replaced) == before.keys()
    assert len(result.taken) + len(result.equal) == len(tensors)


def test_what_the_base_folders_have_may_be_left_out(place, imported, tensors, tmp_path):
    trained = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(("mllm.", "vae.")) or "lora_" in name or name == f"{EMBED}.weight"
    }
    assert len(trained) < len(tensors)
    save_file(trained, tmp_path / "got.safetensors")
    result = converted(settings(place), tmp_path / "got.safetensors")
    assert same(result.weights, load_file(imported / "model.safetensors"))


def test_what_training_changed_is_written_whole_and_spare_rows_do_not_matter(place, imported, tensors, tmp_path):
    changed = {name: tensor.clone() for name, tensor in tensors.items()}
    changed["vae.decoder.conv_in.bias"] += 1
    norm = "mllm.base_model.model.model.norm.weight"
    changed[norm] += 1
    for name in (EMBED, HEAD):
        changed[f"{name}.weight"][0] += 1
        changed[f"{name}.weight"] = torch.cat([changed[f"{name}.weight"], torch.ones(5, 32)])
    torch.save(changed, tmp_path / "got.pt")
    result = converted(settings(place), tmp_path / "got.pt")
    new = result.weights.keys() - load_file(imported / "model.safetensors").keys()
    assert {name: result.weights[name].shape[0] for name in new} == {
        "codec.autoencoder.decoder.conv_in.bias": 8,
        "reasoner.mllm.base_model.model.model.language_model.norm.weight": 32,
        f"reasoner.{EMBEDDING}.token_adapter.base_layer.weight": len(tensors[f"{EMBED}.weight"]),
    }
    assert torch.equal(result.weights["codec.autoencoder.decoder.conv_in.bias"], changed["vae.decoder.conv_in.bias"])


@pytest.mark.parametrize("name", [EMBED, HEAD])
def test_one_of_two_tied_embeddings_will_do(place, imported, tensors, tmp_path, name):
    torch.save(without(f"{name}.weight")(tensors), tmp_path / "got.pt")
    assert same(converted(settings(place), tmp_path / "got.pt").weights, load_file(imported / "model.safetensors"))


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_shards_are_read_through_their_index_or_their_folder(tensors, tmp_path, ending):
    stem = "pytorch_model" if ending == "bin" else "model"
    names = sorted(tensors)
    places = {name: f"{stem}-{1 + 2 * place // len(names):05d}-of-00002.{ending}" for place, name in enumerate(names)}
    for shard in set(places.values()):
        part = {name: tensors[name] for name in names if places[name] == shard}
        (torch.save if ending == "bin" else save_file)(part, tmp_path / shard)
    index = tmp_path / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert same(read_tensors(index), tensors)
    assert same(read_tensors(tmp_path), tensors)
    (tmp_path / places[names[0]]).unlink()
    with pytest.raises(UserError, match=f"its shard {places[names[0]]} is missing"):
        read_tensors(tmp_path)


UNET_BIAS, VISION = "unet.conv_in.bias", "mllm.base_model.model.visual.merger.ln_q.weight"


def having(name, change):
    return lambda state: {**state, name: change(state)}


CLASHES = [
    (without(UNET_BIAS), "1 missing (unet.conv_in.bias)"),
    (having("unet.stranger", lambda _: torch.ones(1)), "1 unexpected (unet.stranger)"),
    (having(UNET_BIAS, lambda _: torch.ones(3)), f"1 of another shape ({UNET_BIAS}: [3] instead of [8])"),
]


@pytest.mark.parametrize(("spoil", "words"), CLASHES)
def test_a_checkpoint_that_does_not_fit_is_one_line_and_nothing_is_written(
    place, tensors, tmp_path, capsys, spoil, words
):
    torch.save(spoil(tensors), tmp_path / "got.pt")
    assert words in refused(capsys, place, tmp_path / "got.pt", tmp_path / "out")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without("decoder.conv_in.bias"), "1 missing (vae.decoder.conv_in.bias)"),
        (without(VISION), "1 missing (mllm.model.visual.merger.ln_q.weight)"),
        (
            without("lora_A.default.weight"),
            "14 missing (mllm.model.language_model.layers.0.mlp.down_proj.lora_A.weight,",
        ),
        (having("text_encoder.a", lambda _: torch.ones(1)), "1 unexpected (text_encoder.a)"),
        (having(f"{EMBED}.weight", lambda _: torch.ones(9, 32)), f"({EMBED}.weight: [9, 32] instead"),
        (having(f"{HEAD}.weight", lambda state: 2 * state[f"{HEAD}.weight"]), "the recipe's reasoner ties them"),
        (having(f"{HEAD}.base_layer.weight", lambda _: torch.ones(2)), "has one tensor twice"),
    ],
)
def test_what_does_not_fit_is_named(place, tensors, tmp_path, spoil, words):
    torch.save(spoil(tensors), tmp_path / "got.pt")
    with pytest.raises(UserError, match=re.escape(words)):
        converted(settings(place), tmp_path / "got.pt")


def test_other_parts_than_the_released_are_refused(place, tmp_path):
    model = settings(place)
    dit = {"latent_channels": 4, "token_dim": 32, "spatial_channels": 4, "reference_channels": 4, "width": 32}
    model["init_args"]["backbone"] = {"class_path": "backbones.flow_dit.FlowDiT", "init_args": {**dit, "heads": 2}}
    model["init_args"]["guidance"]["init_args"]["pooled_dim"] = None
    with pytest.raises(UserError, match=r"does not have the checkpoint's output_projector_add.projector., unet\.$"):
        converted(model, tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"no weights", "not a readable checkpoint"), (None, "no such file or folder")],
)
def test_what_is_no_checkpoint_is_said_to_be_none(place, tmp_path, capsys, content, words):
    if content is not None:
        (tmp_path / "got.pt").write_bytes(content)
    assert words in refused(capsys, place, tmp_path / "got.pt", tmp_path / "out")


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    torch.save({"unet.a": Path("a")}, tmp_path / "got.pt")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        read_tensors(tmp_path / "got.pt")


def test_a_folder_that_holds_something_is_left_alone(place, imported, capsys):
    before = (imported / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        run(place, place / "got.bin", imported)
    assert "already exists; name a new folder" in capsys.readouterr().err
    assert (imported / "model.safetensors").read_bytes() == before


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path):
    def fill_the_disk():
        with new_folder(tmp_path / "out") as folder:
            (folder / "config.yaml").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"cannot be written .*No space left"):
        fill_the_disk()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["backbone.unet.conv_in.bias", "guidance.projector.weight"])
def test_a_folder_whose_weights_are_not_all_there_is_refused(imported, tmp_path, name):
    shutil.copytree(imported, tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    saved = read_system_weights(file)
    others = {other: tensor for other, tensor in saved.tensors.items() if other != name}
    write_system_weights(file, replace(saved, tensors=others))
    with pytest.raises(UserError, match=rf"does not fit its recipe: 1 missing \({name}\)"):
        GoTPipeline.from_pretrained(tmp_path / "copy", "cpu")
    write_system_weights(file, replace(saved, tensors={**others, name: saved.tensors[name][:1]}))
    with pytest.raises(UserError, match=rf"1 of another shape \({name}: \[1"):
        GoTPipeline.from_pretrained(tmp_path / "copy", "cpu")
