"""Training from a cache is training from images: the same losses, and nothing is encoded."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Callback, Trainer
from small_system import small_settings, small_system, unet_settings
from torch.utils.data import Dataset

from got_core.cli.main import main
from got_core.data import caches
from got_core.data.caches import CachedDataset, build_cache, open_cache, shard_file
from got_core.data.datamodule import GoTDataModule, batch_in_form
from got_core.data.mixture import Source
from got_core.data.scenes.dataset import ScenesDataset
from got_core.errors import UserError
from got_core.training.recipe import build_model
from got_core.types import Sample

RECIPE = ("--config", "recipes/scenes_dit.yaml", "--config", "tests/fixtures/tiny_scenes.yaml")


class Some(Dataset[Sample]):
    """A few scenes, of which some cannot be read; counts what is read."""

    def __init__(self, length=11, broken=(), **tasks):
        self.scenes = ScenesDataset(length=length, tasks=tasks or {"colors": 1.0, "recolour": 1.0}, balanced=True)
        self.broken, self.read = broken, []

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, index):
        self.read.append(index)
        if index in self.broken:
            raise ValueError(f"records.jsonl:{index + 1}: not a readable image")
        return self.scenes[index]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(caches, "ROWS", 4)


def module(datasets, **options):
    sources = [Source(dataset, 1.0) for dataset in datasets]
    return GoTDataModule(sources, batch_size=4, samples_per_epoch=16, **options)


def build(folder, datasets, system, dtype=torch.float32, **options):
    data = module(datasets, **options)
    model = system.model.eval()
    collate = partial(batch_in_form, model.processor, data.chains)
    return build_cache(folder, datasets, model, collate, data.cached_by(model), 3, 0, dtype)


class Losses(Callback):
    """Holds the loss of each step."""

    def __init__(self):
        self.of_steps = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.of_steps.append(float(outputs["loss"]))


def losses(system, data, folder):
    torch.manual_seed(7)
    seen = Losses()
    Trainer(
        default_root_dir=folder, accelerator="cpu", max_steps=8, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[seen], use_distributed_sampler=False,
    ).fit(system.train(), datamodule=data)  # fmt: skip
    return torch.tensor(seen.of_steps)


def unet_system(tune):
    settings = unet_settings()
    settings["init_args"]["reasoner"]["init_args"]["tune"] = tune
    torch.manual_seed(0)
    return build_model(settings)


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_losses_are_those_of_images_and_nothing_is_encoded(tmp_path, monkeypatch, tune):
    datasets = [Some(), Some(9, colors=1.0)]
    build(tmp_path / "cache", datasets, unet_system(tune))
    uncached = losses(unet_system(tune), module(datasets), tmp_path)
    system = unet_system(tune)
    monkeypatch.setattr(type(system.codec), "encode", lambda *some, **others: pytest.fail("an image was encoded"))
    if tune == "lora":
        monkeypatch.setattr(type(system.reasoner), "_see", lambda *some: pytest.fail("the frozen tower ran"))
    for dataset in datasets:
        dataset.read.clear()
    cached = losses(system, module(datasets, cache=str(tmp_path / "cache")), tmp_path)
    assert len(cached) == 8
    torch.testing.assert_close(cached, uncached, rtol=0, atol=1e-5)
    # Of images, those that are checked once; where the tower is trained, the sources of edits too.
    checked = {0, 1, 4, 5, 8, 10}
    assert all(set(dataset.read) <= checked for dataset in datasets) == (tune == "lora")


def test_half_precision_takes_half_the_room(tmp_path):
    system = small_system()
    for dtype in (torch.float32, torch.bfloat16):
        build(tmp_path / str(dtype), [Some(8)], system, dtype)
    full, half = (
        sum(shard_file(tmp_path / str(dtype) / "0", shard).stat().st_size for shard in (0, 1))
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert 0.5 < half / full < 0.6
    sample = CachedDataset(tmp_path / "torch.bfloat16" / "0", Some(8))[0]
    assert {tensor.dtype for tensor in sample.precomputed.values()} == {torch.float32}


def test_an_interrupted_cache_goes_on_and_ends_alike(tmp_path):
    system, whole, interrupted = small_system(), Some(), Some()
    build(tmp_path / "whole", [whole], system)

    class Stopped(Some):
        def __getitem__(self, index):
            if index == 9:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "cache", [Stopped()], system)
    assert [shard_file(tmp_path / "cache" / "0", shard).exists() for shard in range(3)] == [True, True, False]
    with pytest.raises(UserError, match="1 shards are missing: run got data cache again"):
        opened(tmp_path / "cache", [Some()], system)
    build(tmp_path / "cache", [interrupted], system)
    assert set(interrupted.read) == {8, 9, 10}
    one, other = (CachedDataset(tmp_path / name / "0", whole) for name in ("whole", "cache"))
    for index in range(len(whole)):
        assert one[index].chain == other[index].chain == whole[index].chain
        for name, tensor in one[index].precomputed.items():
            torch.testing.assert_close(tensor, other[index].precomputed[name], rtol=0, atol=1e-6)


def opened(folder, datasets, system, **options):
    return open_cache(str(folder), datasets, module(datasets, **options).cached_by(system.model))


def test_a_sample_that_cannot_be_read_is_the_same_error(tmp_path):
    system, dataset = small_system(), Some(broken=(5,))
    assert build(tmp_path / "cache", [dataset], system) == 1
    (cached,) = opened(tmp_path / "cache", [dataset], system)
    assert cached[4].prompt == dataset[4].prompt
    with pytest.raises(ValueError, match=r"records.jsonl:6: not a readable image"):
        cached[5]


def test_what_samples_without_a_source_have_alike_is_stored_once(tmp_path):
    system, edits, captions = small_system(), Some(8, recolour=1.0), Some(8, colors=1.0)
    build(tmp_path / "cache", [edits, captions], system)
    of_edits, of_captions = (
        sum(file.stat().st_size for file in (tmp_path / "cache" / source).glob("*.rows")) for source in "01"
    )
    assert of_captions < 0.75 * of_edits
    batch = system.processor([captions[3]])
    _, black = system.guidance._maps(batch.chains, batch, system.codec)
    torch.testing.assert_close(
        CachedDataset(tmp_path / "cache" / "1", captions)[3].precomputed["reference"], black[0], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda settings: settings["guidance"]["init_args"].update(palette="order"), "palette"),
        (lambda settings: settings["guidance"]["init_args"].update(box_edges="inclusive"), "box_edges"),
        (lambda settings: settings["codec"]["init_args"].update(mean=0.5), "mean of latents"),
        (lambda settings: settings["reasoner"]["init_args"].update(max_chain_tokens=9), "max_chain_tokens"),
        (lambda settings: settings["reasoner"]["init_args"].update(num_tokens=5), "tokenizer"),
        (lambda settings: settings["reasoner"]["init_args"].update(tune="lora"), "weights of the vision tower"),
    ],
)
def test_a_cache_of_another_model_is_refused(tmp_path, change, named):
    settings = small_settings()
    build(tmp_path / "cache", [Some(4)], build_model(settings))
    change(settings["init_args"])
    with pytest.raises(UserError, match=f"the cache was made with {named}") as caught:
        opened(tmp_path / "cache", [Some(4)], build_model(settings))
    assert "\n" not in str(caught.value)


def test_a_codec_with_other_weights_is_refused(tmp_path):
    build(tmp_path / "cache", [Some(4)], unet_system("full"))
    system = unet_system("full")
    with torch.no_grad():
        next(system.codec.parameters()).add_(1)
    with pytest.raises(UserError, match="the cache was made with weights of the codec"):
        opened(tmp_path / "cache", [Some(4)], system)


def test_a_cache_of_other_data_is_refused(tmp_path):
    system = small_system()
    build(tmp_path / "cache", [Some(4)], system)
    with pytest.raises(UserError, match=r"made with samples of each source \[4\], not \[5\]"):
        opened(tmp_path / "cache", [Some(5)], system)
    with pytest.raises(UserError, match="row 0 of the cache has another prompt than the data"):
        opened(tmp_path / "cache", [Some(4, counting=1.0, remove=1.0)], system)
    smaller = Some(4)
    smaller.scenes = ScenesDataset(length=4, size=48, tasks={"colors": 1.0, "recolour": 1.0}, balanced=True)
    with pytest.raises(UserError, match=r"row 0 of the cache has another .* than the data"):
        opened(tmp_path / "cache", [smaller], system)
    with pytest.raises(UserError, match="made with chains whole, not none"):
        opened(tmp_path / "cache", [Some(4)], system, chains="none")
    with pytest.raises(UserError, match="there is no cache"):
        opened(tmp_path / "nowhere", [Some(4)], system)


def test_a_damaged_row_is_named(tmp_path):
    system = small_system()
    build(tmp_path / "cache", [Some(4)], system)
    shard = shard_file(tmp_path / "cache" / "0", 0)
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(OSError, match="row 3 of the cache is damaged"):
        CachedDataset(tmp_path / "cache" / "0", Some(4))[3]


def test_other_folders_stay_as_they_are(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else than a cache"):
        build(tmp_path, [Some(4)], small_system())
    assert sorted(file.name for file in tmp_path.iterdir() if file.name != ".lock") == ["mine.txt"]


def test_a_recipe_is_cached_and_trained_by_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[2])
    cache = tmp_path / "cache"
    train = yaml.safe_load(Path("recipes/scenes_dit.yaml").read_text())["data"]["init_args"]["train"]
    train[0]["dataset"]["init_args"]["length"] = 24
    (tmp_path / "short.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"train": train}}}))
    short = ("--config", str(tmp_path / "short.yaml"))
    main(["data", "cache", *RECIPE, *short, "--output", str(cache), "--workers", "0"])
    assert f"cache: {cache}" in capsys.readouterr().out
    assert json.loads((cache / "cache.json").read_text())["samples of each source"] == [24]
    main(["fit", *RECIPE, *short, "--data.cache", str(cache), "--trainer.default_root_dir", str(tmp_path / "run")])
    assert "scores:" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["fit", *RECIPE, *short, "--data.cache", str(cache), "--model.guidance.palette", "order",
              "--trainer.default_root_dir", str(tmp_path / "other")])  # fmt: skip
    error = capsys.readouterr().err
    assert "the cache was made with palette" in error
    assert error.count("\n") == 1
