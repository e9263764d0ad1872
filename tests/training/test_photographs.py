"""The records recipe on real photographs: it trains on text-to-image and edits alike, and draws what it has learned."""

import pytest
import torch
import yaml
from photo_records import photo_records

from got_core.cli.main import main
from got_core.data.records import RecordsDataset
from got_core.paths import ROOT
from got_core.pipelines.pipeline import GoTPipeline
from got_core.planning.plan import Plan
from got_core.training.recipe import Recipe

SIDE = 32
RECORDS = 7
STEPS = 500
FINE_PATCHES = {"init_args": {"patch": 1, "width": 128}}
AVERAGING = {
    "class_path": "lightning.pytorch.callbacks.EMAWeightAveraging",
    "init_args": {"decay": 0.9, "use_buffers": False},
}


def lay_over(folder, steps):
    """Seven records at 32 pixels, all of them in each step, and a DiT that cuts finer patches of them."""
    dataset = {
        "class_path": "got_core.data.records.RecordsDataset",
        "init_args": {"path": str(photo_records(folder)), "size": SIDE, "source_column": "source"},
    }
    settings = {
        "trainer": {
            "accelerator": "cpu", "max_steps": steps, "default_root_dir": str(folder / "run"),
            "val_check_interval": steps, "log_every_n_steps": 1, "enable_progress_bar": False,
            "enable_model_summary": False, "limit_val_batches": 0,
            "callbacks": [AVERAGING],
        },
        "model": {"init_args": {"warmup_steps": 5, "noise_draws": 2, "backbone": FINE_PATCHES}},
        "data": {"init_args": {
            "train": [{"dataset": dataset}], "validation": dataset, "batch_size": RECORDS, "num_workers": 0,
            "samples_per_epoch": RECORDS * steps,
        }},
    }  # fmt: skip
    path = folder / "photographs.yaml"
    path.write_text(yaml.safe_dump(settings))
    return [str(ROOT / "recipes" / "records_dit.yaml"), str(path)]


def test_the_losses_fall_on_photographs_and_their_edits(tmp_path):
    recipe = Recipe(lay_over(tmp_path, 16))
    losses = {"chain_loss": [], "denoising_loss": []}
    log = recipe.model.log

    def noted(name, value, **settings):
        if name in losses:
            losses[name].append(float(value.detach()))
        log(name, value, **settings)

    recipe.model.log = noted
    recipe.trainer.fit(recipe.model, datamodule=recipe.datamodule)
    for name, values in losses.items():
        assert len(values) == 16
        assert sum(values[-3:]) < 0.9 * sum(values[:3]), name


@pytest.mark.slow
def test_photographs_are_generated_from_their_chains(tmp_path):
    files = lay_over(tmp_path, STEPS)
    main(["fit", *(f"--config={file}" for file in files)])
    pipeline = GoTPipeline.from_pretrained(tmp_path / "run")
    records = RecordsDataset(str(tmp_path / "records.jsonl"), SIDE, source_column="source")
    samples = [records[index] for index in range(RECORDS)]
    plans = [Plan(sample.prompt, sample.chain, sample.size, sample.source) for sample in samples]
    images = torch.cat([pipeline.generate(plan, seed=1, output_type="pt").images * 2 - 1 for plan in plans])
    targets = torch.stack([sample.target for sample in samples])
    errors = (images[:, None] - targets[None]).square().mean(dim=(2, 3, 4))
    decibels = 10 * torch.log10(4 / errors.diagonal())
    print("PSNR", [round(float(value), 1) for value in decibels])
    assert errors.argmin(dim=1).tolist() == list(range(RECORDS))
    assert float(decibels.min()) > 15
