"""Sources whose boxes would vanish are named before training."""

import json

import pytest
from lightning import Trainer
from PIL import Image

from got_core.data.datamodule import GoTDataModule
from got_core.data.mixture import Source
from got_core.data.records import RecordsDataset, bad_chains

GOOD = "a car (100,300),(700,900)"


@pytest.fixture
def records(tmp_path):
    """A function that writes records with these chains, all of one image of 200 x 100 pixels."""
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")

    def write(*chains: str) -> RecordsDataset:
        lines = (json.dumps({"prompt": "a car", "chain": chain, "image": "a.png"}) for chain in chains)
        (tmp_path / "r.jsonl").write_text("\n".join(lines))
        return RecordsDataset(str(tmp_path / "r.jsonl"), 8)

    return write


@pytest.mark.parametrize(
    ("chain", "box", "unit"),
    [
        ("a car (1200,300),(1800,900)", "(1200,300),(1800,900)", "pixels"),
        ("a car (0.1,0.2),(0.5,0.9)", "(0.1,0.2),(0.5,0.9)", "fractions of width and height"),
        ('[{"bbox": [1, 2, 3, 4], "label": "a car"}]', 'bbox": [1, 2, 3, 4]', "JSON or a list"),
        ('[{"bbox_2d": [10, 20, 1300, 40], "label": "a car"}]', "(10,20),(1300,40)", "pixels"),
        ("a car [100, 100, 400, 400]", "100, 100, 400, 4", "JSON or a list"),
        ("a car (100,100),(100,900)", "(100,100),(100,900)", "no area"),
    ],
)
def test_a_chain_that_loses_boxes_is_named_with_its_unit(records, chain, box, unit):
    (bad,), checked = bad_chains(records(GOOD, chain))
    assert checked == 2
    assert bad.record.endswith("r.jsonl:2")
    assert box in bad.box
    assert bad.unit == unit


@pytest.mark.parametrize(
    "chain",
    [
        GOOD,
        "a plain field",
        "two cars (0,0),(1000,1000)",
        "four: 1, 2 and 3",
        "",
        "a car （100，100），（400，400）",
        '[{"bbox_2d": [1, 2, 3, 4], "label": "a car"}]',
    ],
)
def test_chains_that_lose_nothing_pass(records, chain):
    assert bad_chains(records(chain, GOOD)) == ([], 2)


def test_boxes_that_all_fit_their_images_pixels_are_pixels(records):
    inside = [f"a car ({left},10),({left + 40},90)" for left in (0, 30, 60, 90)]
    bad, _ = bad_chains(records(*inside, "a car (100,10),(199,90)"))
    assert len(bad) == 5
    assert bad[0].unit == "pixels: no box leaves its image's pixel size"
    assert bad_chains(records(*inside, GOOD))[0] == []
    assert bad_chains(records(*inside, "a car (100,10),(150,60)"))[0] == []


def test_training_does_not_begin_if_too_many_chains_lose_boxes(records, capsys):
    dataset = records(*[GOOD] * 9, "a car (1200,300),(1800,900)")
    data = GoTDataModule([Source(dataset)], batch_size=1, max_bad_chains=0.1)
    data.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    data.setup("fit")
    assert "1 of 10 chains lose boxes" in capsys.readouterr().out
    data.max_bad_chains = 0.05
    with pytest.raises(
        ValueError, match=r"1 of 10 chains .*r\.jsonl:10: \(1200,300\),\(1800,900\) \(pixels\); at most 5%"
    ):
        data.setup("fit")
    GoTDataModule([Source(dataset)], batch_size=1, chains="words").setup("fit")
