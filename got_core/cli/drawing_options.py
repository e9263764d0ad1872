"""The options of `got generate`, `got edit`, `got reason` and `got studio`."""

import argparse
from collections.abc import Callable

from got_core.paths import BUNDLED_MODEL, LARGEST_SEED


def add_planning(
    command: argparse.ArgumentParser,
    seed: Callable[[str], int],
    size: Callable[[str], tuple[int, int]],
    positive: Callable[[str], int],
) -> None:
    """Which model plans, and how."""
    add_model(command, size)
    command.add_argument("--seed", type=seed, default=0, help=f"0 to {LARGEST_SEED}")
    command.add_argument("--temperature", type=float, default=0.0, help="of the chain; 0 is greedy")
    command.add_argument(
        "--best-of", type=positive, default=1, metavar="N", help="plans to choose the one with the fewest problems from"
    )
    command.add_argument("--repair", action="store_true", help="swap and move boxes where that mends the plan")


def add_model(command: argparse.ArgumentParser, size: Callable[[str], tuple[int, int]]) -> None:
    """Which model it is."""
    command.add_argument(
        "--checkpoint",
        default=BUNDLED_MODEL,
        metavar="RUN",
        help="run folder or checkpoint, or a hub id; by default the small model of coloured shapes that comes along",
    )
    command.add_argument("--size", type=size, metavar="HxW", help="pixels; by default as trained")
    command.add_argument("--device", default=None, help="such as cuda or cpu; by default the best there is")


def add_drawing(command: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    """What is drawn, and how."""
    command.add_argument(
        "--output", default="out", metavar="FOLDER", help="gets image.png, layout.png, chain.txt; by default out"
    )
    command.add_argument("--chain", metavar="FILE", help="draw from this chain instead of writing one")
    command.add_argument(
        "--change",
        action="append",
        default=[],
        metavar="CHANGE",
        help="change the plan before it is drawn, several times if need be: 'move N DX DY', 'move N to X Y', "
        "'resize N X1 Y1 X2 Y2', 'replace N WORDS', 'recolour N COLOUR', 'add WORDS at X1 Y1 X2 Y2', 'remove N'; "
        "regions are counted from 0, places are thousandths of the image",
    )
    command.add_argument(
        "--keep",
        metavar="IMAGE",
        help="an image drawn before: only what the chain.txt beside it has otherwise is drawn anew, or all boxes where "
        "there is none",
    )
    command.add_argument("--steps", type=positive, help="denoising steps")
    command.add_argument(
        "--scheduler", metavar="NAME", help="of diffusers, such as UniPCMultistepScheduler; by default the model's own"
    )
    command.add_argument("--semantic-scale", type=float, metavar="A_T", help="guidance by the reasoning's summary")
    command.add_argument("--spatial-scale", type=float, metavar="A_S", help="guidance by the planned boxes")
    command.add_argument("--reference-scale", type=float, metavar="A_R", help="guidance by the source image")


def add_keeping(command: argparse.ArgumentParser) -> None:
    """What edits alone take: that their source stays."""
    command.add_argument("--keep-rest", action="store_true", help="the source stays as it is outside the planned boxes")
