"""`got inspect`: what a recipe's training costs, before anything is trained or downloaded but configurations."""

from collections.abc import Sequence

from got_core.cli.parsing import Count, Memory, Rate, Size
from got_core.errors import UserError, hide_expected


def inspect(
    *overrides: str,
    config: Sequence[str] = (),
    nodes: Count = 1,
    devices: Count = 1,
    memory: Memory | None = None,
    tflops: Rate | None = None,
    bandwidth: Rate = 50.0,
    price: Rate | None = None,
    size: Size | None = None,
    text_to_image: bool = False,
) -> None:
    """Print what training a recipe costs, without weights or data.

    Args:
        overrides: Options of the recipe.
        config: A recipe; of several, the later ones win.
        nodes: Machines.
        devices: Devices of each machine.
        memory: Memory of a device such as 80GB, to say whether it fits.
        tflops: Sustained TFLOP/s of a device, to predict the time.
        bandwidth: GB/s of a device to the others.
        price: Of a device-hour, to predict the cost of the whole run.
        size: Of images as HEIGHTxWIDTH in pixels; by default the recipe's.
        text_to_image: Take samples without a source image instead of edits.

    Raises:
        UserError: What is wrong with the recipe, or what is missing for a prediction.

    Example:
        got inspect --config recipes/got_sdxl_finetune.yaml --devices 8 --memory 80GB
    """
    if not config:
        raise UserError("got inspect needs a recipe: --config FILE")
    if price is not None and not tflops:
        raise UserError("--price predicts a whole run, which needs --tflops, the rate it is computed at")
    from rich.console import Console

    from got_core.inspection.report import Setup, report
    from got_core.pipelines.saving import trained_size
    from got_core.training.recipe import ResolvedRecipe

    hide_expected()
    recipe = ResolvedRecipe(config, overrides).config
    if price is not None and recipe.trainer.max_steps < 1:
        raise UserError("--price predicts a whole run, but the recipe's trainer.max_steps names no end")
    size = size or trained_size(recipe.as_dict())
    if size is None:
        raise UserError("the recipe does not say how large its images are: give --size HEIGHTxWIDTH")
    setup = Setup.of(recipe, nodes * devices, size, edits=not text_to_image, tflops=tflops, bandwidth=bandwidth)
    console = Console()
    for part in report(recipe, setup, memory, price):
        console.print(part, highlight=False)
