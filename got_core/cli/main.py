"""The `got` command. Nothing heavy is imported before a subcommand needs it."""

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from got_core.cli.drawing_options import add_drawing, add_keeping, add_model, add_planning
from got_core.cli.studio_options import add_serving
from got_core.cli.suite_options import (
    GROUNDING_DINO,
    MASK2FORMER,
    add_cases,
    add_editing,
    add_efficiency,
    add_quality,
    add_understanding,
)
from got_core.cli.suites import SUITES
from got_core.errors import UserError, hide_expected, one_line
from got_core.paths import LARGEST_SEED

TRACEBACK = "GOT_TRACEBACK"
"""Environment variable: set to anything, errors are shown with their traceback."""

MISTAKE = 2
"""Exit status after an error of the user's."""

OFFICIAL_RECIPE = "recipes/got_sdxl_finetune.yaml"
"""The recipe that the released checkpoint is read into; the import sets its palette to the released one."""

CLIP = "openai/clip-vit-large-patch14"
"""What tells colours in GenEval, and images and captions apart in edits, unless another folder or hub id is given."""

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""That images can be drawn in, as Lightning calls them; judges always see in the first."""

DTYPES = ("float32", "bfloat16", "float16")
"""That weights can be written in, as torch calls them."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

_TRAINING_HELP = """options of a recipe (after --config):
  --model.backbone.depth 8               set a value; init_args may be left out
  --model.backbone my_file.MyBackbone    swap a component for another class
  --trainer.max_steps 100                any argument of Lightning's Trainer
  --trainer.default_root_dir runs/mine   another run folder
  --print_config                         print the resolved recipe and stop"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Hand the message to `main`."""
        raise UserError(message)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one subcommand.

    Raises:
        SystemExit: 2 and one line on stderr after a mistake of the user's; 130 after Ctrl-C.
    """
    try:
        started = time.monotonic()
        options, rest = parser().parse_known_args(argv)
        options.started = started
        if rest and not options.recipe_options:
            raise UserError(f"unknown option {rest[0]} of got {options.command}")
        module, function = options.run.split(":")
        command = getattr(import_module(module), function)
        hide_expected()
        command(options, rest)
    except UserError as error:
        if os.environ.get(TRACEBACK):
            raise
        print(f"got: error: {one_line(error)}", file=sys.stderr)
        sys.exit(MISTAKE)
    except KeyboardInterrupt as error:
        print(f"got: interrupted{f': {error}' if str(error) else ''}", file=sys.stderr)
        sys.exit(INTERRUPTED)


def parser() -> Parser:
    """The parser of the command line; recipes are parsed by `got_core.training.recipe`."""
    top = Parser(prog="got", description="Train and use models that reason about a picture before they draw it.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    _training(commands)
    _inspection(commands)
    _studies(commands)
    _drawing(commands)
    _evaluation(commands)
    _weights(commands)
    return top


def _training(commands: "argparse._SubParsersAction[Parser]") -> None:
    for name, text in {"fit": "train a recipe, then score it", "validate": "score a checkpoint"}.items():
        command = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=_TRAINING_HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_argument(
            "--config", "-c", action="append", default=[], metavar="FILE", help="recipe; later ones win"
        )
        command.add_argument("--ckpt_path", metavar="FILE", help="checkpoint to load, or `last` of this run's folder")
        with_weights = "begin with" if name == "fit" else "score"
        command.add_argument(
            "--weights", metavar="RUN", help=f"{with_weights} the weights of a run, folder or checkpoint"
        )
        if name == "fit":
            command.add_argument(
                "--overwrite", action="store_true", help="replace the run that the run folder holds already"
            )
        if name == "validate":
            command.add_argument("--checkpoint", metavar="RUN", help="run folder or checkpoint; brings its own recipe")
        command.set_defaults(run=f"got_core.cli.train:{name}", recipe_options=True)


def _inspection(commands: "argparse._SubParsersAction[Parser]") -> None:
    command = commands.add_parser(
        "inspect",
        help="what training a recipe costs",
        description="Parameters, FLOPs, memory and time of a recipe's training, without weights or data.",
        epilog=_TRAINING_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("--config", "-c", action="append", default=[], metavar="FILE", help="recipe; later ones win")
    command.add_argument("--nodes", type=_positive, default=1, help="machines")
    command.add_argument("--devices", type=_positive, default=1, help="of each machine")
    command.add_argument("--memory", type=_bytes, metavar="80GB", help="of a device, for a verdict")
    command.add_argument("--tflops", type=_rate, metavar="T", help="a device's sustained TFLOP/s, for the time")
    command.add_argument("--bandwidth", type=_rate, default=50.0, metavar="GB/s", help="a device's, to the others; 50")
    command.add_argument("--price", type=_rate, metavar="P", help="of a device-hour: foretells the whole run")
    command.add_argument("--size", type=_size, metavar="HxW", help="pixels; by default the recipe's")
    command.add_argument("--text-to-image", action="store_true", help="samples without a source image, not edits")
    command.set_defaults(run="got_core.cli.inspect:inspect", recipe_options=True)


def _studies(commands: "argparse._SubParsersAction[Parser]") -> None:
    text = "train and score variants x backbones x seeds; the same command goes on after an interruption"
    command = commands.add_parser("study", help=text, description=text, allow_abbrev=False)
    command.add_argument("file", help="a study, such as recipes/studies/components.yaml")
    command.add_argument("--jobs", type=_positive, metavar="N", help="at a time; by default one a GPU, else one a core")
    command.add_argument("--output", default="runs", metavar="FOLDER", help="gets a folder a study; runs by default")
    command.set_defaults(run="got_core.cli.study:study", recipe_options=False)


def _drawing(commands: "argparse._SubParsersAction[Parser]") -> None:
    generate = commands.add_parser("generate", help="draw a picture from a prompt", allow_abbrev=False)
    generate.add_argument("prompt", help="what to draw; may be empty with --chain")
    edit = commands.add_parser("edit", help="edit a picture by an instruction", allow_abbrev=False)
    edit.add_argument("source", help="image file")
    edit.add_argument("prompt", metavar="instruction", help="what to change; may be empty with --chain")
    reason = commands.add_parser("reason", help="print the reasoning chain alone", allow_abbrev=False)
    reason.add_argument("prompt", help="prompt, or instruction with --source")
    reason.add_argument("--source", metavar="IMAGE", help="image to edit")
    for name, command in {"generate": generate, "edit": edit, "reason": reason}.items():
        add_planning(command, _seed, _size, _positive)
        command.set_defaults(run=f"got_core.cli.generate:{name}", recipe_options=False)
    for command in (generate, edit):
        add_drawing(command, _positive)
    add_keeping(edit)
    text = "a web page to plan, draw, change and edit pictures"
    studio = commands.add_parser("studio", help=text, description=text, allow_abbrev=False)
    add_model(studio, _size)
    add_serving(studio, _positive)
    studio.set_defaults(run="got_core.cli.studio:studio", recipe_options=False)


def _evaluation(commands: "argparse._SubParsersAction[Parser]") -> None:
    text = "draw prompts and score the images, or score a folder of images"
    command = commands.add_parser("evaluate", help=text, description=text, allow_abbrev=False)
    command.add_argument("--suite", required=True, choices=list(SUITES), help="what is measured")
    command.add_argument("--images", metavar="FOLDER", help="images to score, in the suite's layout, whoever made them")
    command.add_argument("--checkpoint", metavar="RUN", help="run folder or checkpoint to draw from first")
    command.add_argument("--prompts", metavar="FILE", help="GenEval's evaluation_metadata.jsonl, or one like it")
    command.add_argument("--output", metavar="FOLDER", help="gets images, verdicts, results.json; goes on with them")
    command.add_argument("--per-prompt", type=_positive, metavar="N", help="images of each prompt; 4 are drawn")
    command.add_argument("--seed", type=_seed, help=f"of the drawings, 0 to {LARGEST_SEED}; 0")
    command.add_argument("--size", type=_size, metavar="HxW", help="pixels; by default as trained")
    command.add_argument("--steps", type=_positive, help="denoising steps")
    command.add_argument("--precision", choices=PRECISIONS, help=f"of the drawings; {PRECISIONS[0]}")
    command.add_argument("--semantic-scale", type=float, metavar="A_T", help="guidance by the reasoning's summary")
    command.add_argument("--spatial-scale", type=float, metavar="A_S", help="guidance by the planned boxes")
    command.add_argument(
        "--detector",
        metavar="FOLDER",
        help=f"a model, or its hub id; `scenes` for drawn scenes; for geneval a Mask2Former, {MASK2FORMER} by default; "
        f"for layout also a Grounding DINO, OWL-ViT or OWLv2, {GROUNDING_DINO} by default",
    )
    command.add_argument("--clip", default=CLIP, metavar="FOLDER", help=f"tells colours, or its hub id; {CLIP}")
    command.add_argument("--batch-size", type=_positive, default=8, help="images at a time on each device; 8")
    command.add_argument("--num-workers", type=_whole, default=0, help="processes that read images on each device; 0")
    command.add_argument("--accelerator", default="auto", help="such as cuda or cpu; by default the best there is")
    command.add_argument("--devices", type=_positive, default=1, help="of each machine")
    command.add_argument("--num-nodes", type=_positive, default=1, help="machines, with a folder that all can see")
    add_editing(command, _positive)
    add_quality(command)
    add_understanding(command)
    add_efficiency(command, _positive, _whole)
    add_cases(command, _positive)
    command.set_defaults(run="got_core.cli.suites:evaluate", recipe_options=False, default_of=command.get_default)

    text = "say whether one results.json is better than another, item by item"
    command = commands.add_parser("compare", help=text, description=text, allow_abbrev=False)
    command.add_argument("first", metavar="A.json", help="results of got evaluate")
    command.add_argument("second", metavar="B.json", help="results of the same suite")
    command.set_defaults(run="got_core.cli.comparison:compare", recipe_options=False)


def _weights(commands: "argparse._SubParsersAction[Parser]") -> None:
    text = "turn the released GoT checkpoint into a folder that generate, edit and reason open"
    command = commands.add_parser("import-official", help=text, description=text, allow_abbrev=False)
    command.add_argument(
        "weights", metavar="CHECKPOINT", help=".bin, .pt or .safetensors, an index of shards, a folder"
    )
    command.add_argument("--output", required=True, metavar="FOLDER", help="a new folder")
    command.add_argument("--qwen", metavar="FOLDER", help="Qwen2.5-VL-3B-Instruct, or its hub id; else the recipe's")
    command.add_argument("--sdxl", metavar="FOLDER", help="SDXL's pipeline, or its hub id; else the recipe's")
    command.add_argument(
        "--config", "-c", action="append", default=[], metavar="FILE", help=f"recipe; by default {OFFICIAL_RECIPE}"
    )
    command.set_defaults(
        run="got_core.cli.weights:import_official", recipe_options=True, default_config=OFFICIAL_RECIPE
    )

    text = "write a run's components as safetensors, in the layouts of transformers and diffusers"
    command = commands.add_parser("export", help=text, description=text, allow_abbrev=False)
    command.add_argument("--checkpoint", required=True, metavar="RUN", help="run folder or checkpoint")
    command.add_argument("--output", required=True, metavar="FOLDER", help="a new folder")
    command.add_argument("--pipeline", action="store_true", help="as one self-contained folder for GoTPipeline instead")
    command.add_argument("--dtype", choices=DTYPES, help="of the pipeline's weights; as they are by default")
    command.set_defaults(run="got_core.cli.weights:export", recipe_options=False)


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value <= LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..{LARGEST_SEED}")
    return value


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got '{text}'")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number, got '{text}'")
    return int(text)


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got '{text}'")
    return value


def _bytes(text: str) -> int:
    number = text.upper().removesuffix("B").removesuffix("G")
    if not number.replace(".", "", 1).isdigit() or float(number) <= 0:
        raise argparse.ArgumentTypeError(f"expected gigabytes such as 80GB, got '{text}'")
    return int(float(number) * 10**9)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 256x256, got '{text}'")
    return int(height), int(width)


if __name__ == "__main__":
    main()
