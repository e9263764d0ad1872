"""The command line itself: help, completion, and one-line errors of options and recipes."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.strategies import ModelParallelStrategy
from refusals import refused

from got_core.cli.main import COMMANDS, function_of, main
from got_core.cli.parsing import parser_of
from got_core.paths import ROOT
from got_core.training.recipe import Recipe, ResolvedRecipe

TINY = str(Path(__file__).parents[1] / "fixtures" / "tiny_scenes.yaml")
RECIPE = ("--config", str(ROOT / "recipes" / "scenes_dit.yaml"), "--config", TINY)
SHARDED = "--trainer.strategy={class_path: lightning.pytorch.strategies.ModelParallelStrategy}"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["evaluate"], ["evaluate", "--help"]])
def test_help_comes_from_the_table_alone(arguments):
    script = f"import sys; from got_core.cli.main import main; main({arguments})\n"
    script += "sys.exit(any(name in sys.modules for name in ('torch', 'lightning', 'jsonargparse', 'yaml')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0
    named = [name for name in COMMANDS if name.startswith(" ".join(arguments[:1]).replace("--help", ""))]
    assert all(name in done.stdout for name in named)
    assert done.stdout.strip()


def test_help_costs_little():
    def spent(*words):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], capture_output=True, check=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(spent("-m", "got_core.cli.main", "--help") for _ in range(3)) < 0.15 + spent("-c", "pass")
    command = "import sys; from got_core.cli.main import main; main([sys.argv[1], '--help'])"
    for name in ("fit", "validate", "inspect", "generate", "edit", "reason", "import-official", "export"):
        assert min(spent("-c", command, name) for _ in range(3)) < 0.6 + spent("-c", "pass"), name


@pytest.mark.parametrize(
    ("encoding", "printed"), [("ascii", r"\u63d0 caf\xe9"), ("latin-1", "\\u63d0 café"), ("utf-8", "提 café")]
)
def test_what_a_terminal_cannot_show_is_escaped(encoding, printed):
    script = "import sys; from got_core.cli.main import main; main(['--version']); print('提 café')\n"
    script += "main(['caf\\xe9'])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        cwd=ROOT,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert done.stdout.decode(encoding).splitlines()[1:] == [printed]
    assert done.stderr.decode(encoding).startswith(f"got: error: {printed.split()[1]} is no command")
    assert done.returncode == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_sentence_options_and_an_example(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith(f"usage: got {name} ")
    assert COMMANDS[name].help in said
    assert f"example: got {name} " in said
    parser = parser_of(name, function_of(name))
    assert all(action.help for action in parser._actions)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_commands_and_options(shell, capsys):
    main(["completion", shell])
    script = capsys.readouterr().out
    assert all(word in script for word in ("import-official", "geneval", "--per-prompt", "--semantic-scale"))
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_a_strategy_is_named_by_its_class_path():
    kind = "lightning.pytorch.strategies.ModelParallelStrategy"
    recipe = ["--config", "recipes/scenes_dit.yaml", "--trainer.accelerator=cpu", "--trainer.strategy", kind]
    built = Recipe(recipe[1:2], recipe[2:])
    assert isinstance(built.trainer.strategy, ModelParallelStrategy)
    assert ResolvedRecipe(recipe[1:2], ["--trainer.strategy=ddp"]).config.trainer.strategy == "ddp"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("xyz",), "xyz is no command of got; known: bench, chain, compare, "),
        (("generat", "a circle"), "did you mean 'generate'?"),
        (("fit", *RECIPE, "--overwite"), "unknown option --overwite; did you mean '--overwrite'?"),
        (("fit", "recipes/scenes_dit.yaml"), "got fit takes no recipes/scenes_dit.yaml"),
        (("fit",), "--config FILE"),
        (("fit", "--config", "nowhere.yaml"), "nowhere.yaml: no such recipe"),
        (("fit", "--config", "pyproject.toml"), "pyproject.toml, line"),
        (("fit", *RECIPE, "--weights", "runs/nowhere"), "runs/nowhere: no such run"),
        (("fit", *RECIPE, "--weights", "a", "--ckpt_path", "last"), "give one of the two"),
        (("fit", *RECIPE, "--ckpt_path", "LICENSE", SHARDED), "LICENSE is one file, whose training state"),
        (("fit", *RECIPE, "--ckpt_path", "recipes"), "recipes is a distributed checkpoint, which trainer.strategy"),
        (("fit", *RECIPE, "--trainer.devices", "0"), "`Trainer(devices='0')` value is not a valid input"),
        (("fit", *RECIPE, "--trainer.accelerator=hpu"), "hpu"),
        (("inspect", *RECIPE, "--tflops", "0"), "expected positive number, got '0'"),
        (("inspect", *RECIPE, "--bandwidth", "none"), "expected positive number, got 'none'"),
        (("inspect", *RECIPE, "--tflops", "1", "--price", "-1"), "expected positive number, got '-1'"),
        (("inspect", *RECIPE, "--tflops", "1", "--price", "1", "--trainer.max_steps=-1"), "max_steps names no end"),
        (("validate",), "--checkpoint RUN"),
        (("validate", "--checkpoint", "runs/nowhere"), "runs/nowhere: no such run"),
        (("validate", *RECIPE, "--weights", "runs/nowhere"), "runs/nowhere: no such run"),
        (("validate", *RECIPE), "--ckpt_path FILE or --weights RUN"),
        (("generate", "a circle", "--checkpoint", "x", "--output", "y", "--sed", "1"), "did you mean '--seed'?"),
        (
            ("generate", "a circle", "--checkpoint", "no/where", "--output", "y"),
            "'no/where' is not a folder here",
        ),
        (("generate", "", "--checkpoint", "x", "--output", "y"), "--chain"),
        (("generate", "", "--checkpoint", "x", "--output", "y", "--chain", "nowhere.txt"), "nowhere.txt"),
        (("generate", "", "--checkpoint", "x", "--output", "y", "--size", "32"), "HEIGHTxWIDTH"),
        (("generate", "", "--output", "y", "--prompts", "nowhere.txt"), "nowhere.txt: no readable file of prompts"),
        (
            ("generate", "a", "--output", "y", "--prompts", "LICENSE"),
            "--prompts and a prompt both say what to generate",
        ),
        (("generate", "", "--output", "y", "--prompts", "a", "--chain", "LICENSE"), "--prompts and --chain both say"),
        (("generate", "", "--output", "y", "--prompts", "got_core/py.typed"), "py.typed: there is no prompt in it"),
        (("generate", "a", "--output", "y", "--num", "0"), "--num: expected positive int"),
        (("edit", "pyproject.toml", "a", "--checkpoint", "x", "--output", "y"), "pyproject.toml: not a readable image"),
        (("reason", "a", "--checkpoint", "x", "--source", "nowhere.png"), "nowhere.png: no such image"),
    ],
)
def test_a_wrong_command_line_is_one_line(capsys, tmp_path, arguments, words):
    """Each in a run folder of its own, as other tests train at the same time."""
    own = (f"--trainer.default_root_dir={tmp_path}",) if {"fit", *RECIPE} <= set(arguments) else ()
    assert words in refused(capsys, *arguments, *own)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "--model.backbone.dept=8",
            "model.backbone: backbones.flow_dit.FlowDiT takes no 'dept'; did you mean 'depth'?",
        ),
        ("--model.backbone.depth=many", "model.backbone.depth: expected int, got 'many'"),
        ("--model.backbone=backbones.flow_dit.FlowDit", "backbones.flow_dit has no 'FlowDit'; did you mean 'FlowDiT'?"),
        ("--model.backbone=torch.nn.Linear", "model.backbone: torch.nn.Linear is not a DenoisingBackbone"),
        ("--model.backbone=nowhere.Backbone", "No module named 'nowhere'"),
        ("--model.optimizer.weight_decy=1", "torch.optim.AdamW takes no 'weight_decy'; did you mean 'weight_decay'?"),
        ("--model.guidance.token_dim=64", "makes tokens of width 64, FlowDiT takes 128"),
        (
            "--model.guidance.token_dim=${model.init_args.reasoner.wide}",
            "${model.init_args.reasoner.wide} names no key",
        ),
        ("--model.reasoner.tokenizer=nowhere.json", "nowhere.json"),
        ("--trainer.max_step=3", "unknown option --trainer.max_step; did you mean '--trainer.max_steps'?"),
        ("--ckpt_path=last", "checkpoints/last.ckpt does not exist"),
        ("--ckpt_path=nowhere.ckpt", "nowhere.ckpt: no such checkpoint"),
    ],
)
def test_a_wrong_recipe_is_one_line(capsys, tmp_path, override, words):
    root = f"--trainer.default_root_dir={tmp_path}"
    assert words in refused(capsys, "fit", *RECIPE, root, override)
    assert not any(tmp_path.iterdir())


def test_what_is_wrong_with_the_code_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "broken_backbone.py").write_text(
        "from backbones.flow_dit import FlowDiT\n"
        "class Broken(FlowDiT):\n"
        "    def __init__(self, latent_channels: int):\n"
        "        super().__init__(latent_channels, 128)\n"
        "        self.layers.nothing\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AttributeError, match="nothing"):
        main(["fit", *RECIPE, "--model.backbone=broken_backbone.Broken", "--model.backbone.latent_channels=48",
              f"--model.reasoner.tokenizer={ROOT}/recipes/assets/scenes_tokenizer.json"])  # fmt: skip
