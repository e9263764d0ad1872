"""Options of the suites of `got evaluate`; nothing heavy is imported."""

import argparse
from collections.abc import Callable

MASK2FORMER = "facebook/mask2former-swin-small-coco-instance"
"""What judges GenEval, unless another folder or hub id is given."""

GROUNDING_DINO = "IDEA-Research/grounding-dino-tiny"
"""What looks for planned objects, unless another folder or hub id is given."""

DINO = "facebook/dinov2-base"
"""What tells how alike images are, unless another folder or hub id is given."""

NONE = "none"
"""Leaves out the figures of a judge."""

SCENES = "scenes"
"""In place of a path: drawn scenes, which need no files."""

SPLITS = ("test", "validation", "train")
"""Of drawn scenes."""


def add_editing(command: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    """Options of the suite editing.

    Args:
        command: Gets them.
        positive: Reads a positive whole number.
    """
    group = command.add_argument_group(
        "editing", "--prompts takes a set of edits in any layout, or `scenes`; --clip none leaves CLIP out"
    )
    group.add_argument(
        "--number", type=positive, default=96, help="drawn scenes, edits of them or questions on them; 96"
    )
    group.add_argument("--reference-scale", type=float, metavar="A_R", help="guidance by the source image")
    group.add_argument("--method", metavar="NAME", help="whose outputs to score, in ImagenHub's layout")
    group.add_argument("--dino", default=DINO, metavar="FOLDER", help=f"ViT or DINOv2, its hub id, or none; {DINO}")
    group.add_argument("--lpips", metavar="FILE", help="torchvision's weights of AlexNet or VGG16; else no LPIPS")
    group.add_argument("--judge-url", metavar="URL", help="OpenAI-compatible, such as http://localhost:8000/v1")
    group.add_argument("--judge-model", metavar="NAME", help="as the endpoint calls it")
    group.add_argument(
        "--judge-key", default="OPENAI_API_KEY", metavar="VARIABLE", help="environment variable that holds the key"
    )
    group.add_argument("--judge-timeout", type=positive, default=120, metavar="SECONDS", help="for an answer; 120")


def add_quality(command: argparse.ArgumentParser) -> None:
    """Options of the suite quality."""
    group = command.add_argument_group("quality", "FID and KID of --images against another folder")
    group.add_argument("--reference", metavar="FOLDER", help="images that --images is compared with")
    group.add_argument(
        "--inception", metavar="FILE", help="FID's own Inception v3: pt_inception-2015-12-05-6726825d.pth"
    )


def add_understanding(command: argparse.ArgumentParser) -> None:
    """Options of the suite understanding."""
    group = command.add_argument_group(
        "understanding", "what training cost: --prompts takes `scenes`, or questions as JSON lines or Parquet"
    )
    group.add_argument("--before", metavar="RUN", help="to compare with; else the weights that the recipe starts from")
    group.add_argument("--texts", metavar="FILE", help="JSON lines or Parquet with the column text, for perplexity")


def add_efficiency(
    command: argparse.ArgumentParser, positive: Callable[[str], int], whole: Callable[[str], int]
) -> None:
    """Options of the suite efficiency.

    Args:
        command: Gets them.
        positive, whole: Read a positive whole number, and one that may be 0.
    """
    group = command.add_argument_group(
        "efficiency", "one image on one device: --checkpoint or --config, and --output for results.json"
    )
    group.add_argument("--config", "-c", action="append", default=[], metavar="FILE", help="a recipe, not a checkpoint")
    group.add_argument("--repeats", type=positive, default=5, help="that times are the median of; 5")
    group.add_argument("--warm-up", type=whole, default=1, metavar="N", help="runs that are not timed before; 1")


def add_cases(command: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    """Options of the suites interaction, plans and conversation.

    Args:
        command: Gets them.
        positive: Reads a positive whole number.
    """
    group = command.add_argument_group(
        "interaction, plans, conversation", "--number drawn scenes are made, drawn from --checkpoint into --output"
    )
    group.add_argument("--split", choices=SPLITS, default=SPLITS[0], help=f"what is asked for; {SPLITS[0]}: held out")
    group.add_argument("--best-of", type=positive, default=4, metavar="N", help="plans to choose from; 4")
    group.add_argument("--temperature", type=float, default=1.0, help="of plans that are drawn by chance; 1")
    group.add_argument("--keep-rest", action="store_true", help="edits leave all but their planned boxes as it was")
