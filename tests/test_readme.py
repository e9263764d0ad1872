"""The worked example of backbones/README.md does what it says, as printed; the README is short."""

import json
import re
import sys

import pytest
import torch

from got_core.cli.main import main
from got_core.paths import ROOT

LONGEST = 80
SHORT = (
    "--trainer.max_steps=2",
    "--trainer.val_check_interval=2",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--data.batch_size=4",
    "--data.num_workers=0",
    "--data.validation.length=6",
    "--model.sampling_steps=2",
    "--model.max_chain_tokens=12",
)


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The example's files in an empty working directory; the texts by name."""
    text = (ROOT / "backbones" / "README.md").read_text()
    blocks = dict(re.findall(r"<!-- example: ([\w.]+) -->\n```\w+\n(.*?)```", text, flags=re.DOTALL))
    for name in ("my_backbones.py", "my_conv.yaml"):
        (tmp_path / name).write_text(blocks[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield blocks
    sys.modules.pop("my_backbones", None)


def test_the_example_is_short(example):
    assert sum(example[name].count("\n") for name in ("my_backbones.py", "my_conv.yaml")) < LONGEST


def test_the_example_keeps_the_contract(example):
    exec(compile(example["check"], "backbones/README.md", "exec"), {})


def test_the_example_trains_and_is_scored(example, tmp_path):
    main(["fit", "--config", "recipes/scenes_dit.yaml", "--config", "my_conv.yaml", *SHORT])
    run = tmp_path / "runs" / "scenes_dit+my_conv"
    assert "ConvBackbone" in (run / "config.yaml").read_text()
    assert json.loads((run / "metrics.json").read_text())["seconds"] > 0
    own = ("--checkpoint", str(run), "--trust-code", ".")
    main(["generate", "a red circle", *own, "--output", "out", "--steps", "2"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"image.png", "layout.png", "chain.txt"}


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") <= 200
    for file in ROOT.rglob("README.md"):
        if not {"runs", "fixtures", "build"} & set(file.parts):  # A wheel's build has copies of some of them.
            without_code = re.sub(r"`[^`\n]+`", "", file.read_text())
            for link in re.findall(r"\]\(([^)#:]+)\)", without_code):
                assert (file.parent / link).exists(), (file, link)


EXAMPLES = {
    f"{file.parent.relative_to(ROOT)}: {names}": (file, names.split(), code)
    for file in sorted(ROOT.glob("*/README.md")) + sorted(ROOT.glob("got_core/*/README.md"))
    for names, code in re.findall(r"<!-- check: ([\w. ]+) -->\n```python\n(.*?)```", file.read_text(), flags=re.DOTALL)
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_components_written_outside_the_package_keep_the_contract(name, tmp_path, monkeypatch):
    file, modules, check = EXAMPLES[name]
    blocks = dict(re.findall(r"<!-- example: ([\w.]+) -->\n```python\n(.*?)```", file.read_text(), flags=re.DOTALL))
    for module in modules:
        assert blocks[module].count("\n") <= LONGEST
        (tmp_path / module).write_text(blocks[module])
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.manual_seed(0)
    try:
        exec(compile(check, str(file), "exec"), {})
    finally:
        for module in modules:
            sys.modules.pop(module.removesuffix(".py"), None)


def test_each_kind_of_component_has_an_example():
    modules = {module for _, names, _ in EXAMPLES.values() for module in names}
    assert modules == {"my_dataset.py", "my_objective.py", "my_codec.py", "my_guidance.py", "my_reasoner.py"}
