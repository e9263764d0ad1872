"""`got import-official`, which reads the released checkpoint, and `got export`, for use elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from got_core.errors import UserError, as_user_error
from got_core.paths import Run, locate

if TYPE_CHECKING:
    from got_core.interfaces import NoiseObjective, Scheduler


def import_official(
    weights: str,
    *overrides: str,
    output: str,
    qwen: str | None = None,
    sdxl: str | None = None,
    config: Sequence[str] = (),
) -> None:
    """Turn the released GoT checkpoint into a folder of ours.

    `got generate`, `edit` and `reason` open it. The scheduler is that of SDXL's folder, and chains are written with the
    repetition penalty of the language model's generation_config.json.

    Args:
        weights: A .bin, .pt or .safetensors file, an index of shards, or a folder.
        overrides: Options of the recipe.
        output: A new folder.
        qwen: Folder of Qwen2.5-VL-3B-Instruct, or its hub id; by default the recipe's.
        sdxl: Folder of SDXL's pipeline, or its hub id; by default the recipe's.
        config: A recipe, of several the later ones win; by default recipes/got_sdxl_finetune.yaml.

    Raises:
        UserError: The checkpoint does not fit the recipe (names are listed), or the folder cannot be written; nothing
            is written then.

    Example:
        got import-official GoT-6B/pytorch_model.bin --output runs/official
    """
    from got_core.diffusion.schedulers import save_scheduler
    from got_core.training.recipe import ResolvedRecipe, build_model
    from got_core.weights.checkpoints import SystemWeights, write_system_weights
    from got_core.weights.files import new_folder
    from got_core.weights.loading import without_weights
    from got_core.weights.official import convert

    # Of the released weights, whatever the recipe says: only boxes with a colour behind them are painted.
    palette = "--model.guidance.palette=named"
    recipe = ResolvedRecipe(config or ["recipes/got_sdxl_finetune.yaml"], [palette, *overrides])
    model = recipe.config.model
    loaded = []
    for part, base in {"reasoner": qwen, "backbone": sdxl, "codec": sdxl}.items():
        arguments = model.get(f"init_args.{part}.init_args")
        if arguments is not None and (base := base or arguments.get("pretrained")):
            arguments.pretrained = _absolute(base)
            loaded.append(part)
    reasoner, backbone = (model.get(f"init_args.{part}.init_args") for part in ("reasoner", "backbone"))
    if reasoner and reasoner.get("editing_template"):
        # The released model was trained without the requests of earlier turns.
        reasoner.editing_template = reasoner.editing_template.replace("{earlier}", "")
    with without_weights():
        objective: Any = build_model(model.as_dict()).objective
    scheduler = _scheduler(objective, backbone and backbone.get("pretrained"))
    if reasoner and reasoner.get("pretrained") and reasoner.get("repetition_penalty") == 1:
        reasoner.repetition_penalty = _repetition_penalty(reasoner.pretrained)
    with new_folder(output) as folder:
        if scheduler is not None:
            save_scheduler(scheduler, folder)
        result = convert(lambda: build_model(model.as_dict()), weights, loaded)
        recipe.parser.save(recipe.config, str(Run(folder).recipe), skip_unset=False)
        write_system_weights(
            Run(folder).weights, SystemWeights(result.weights, frozenset(result.in_base), result.origins)
        )
    print(f"{output}: {len(result.weights)} tensors written, {len(result.in_base)} left to the base folders")
    print(
        f"of the checkpoint's, {len(result.taken)} were taken, {len(result.equal)} are equal to the base folders' "
        f"and {len(result.replaced)} had been replaced in training"
    )


def export(
    *,
    checkpoint: str,
    output: str,
    pipeline: bool = False,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    trust_code: str | None = None,
) -> None:
    """Write a run's components in the layouts of transformers and diffusers.

    Args:
        checkpoint: Run folder or checkpoint.
        output: A new folder.
        pipeline: Write one folder that GoTPipeline opens and that needs nothing else instead.
        dtype: Of the pipeline's weights; by default as they are.
        trust_code: A folder of Python files that the model's classes may be in, beside installed packages; it runs.

    Raises:
        UserError: There is no such run, or the folder cannot be written; nothing is written then.

    Example:
        got export --checkpoint runs/scenes_dit --output exported
    """
    import shutil

    import torch

    from got_core.model import PARTS
    from got_core.pipelines.saving import find_model, open_model, save_pipeline
    from got_core.weights.files import new_folder

    with as_user_error(FileNotFoundError):
        recipe = find_model(checkpoint, trust_code=trust_code).run.recipe
    if dtype and not pipeline:
        raise UserError("--dtype is of --pipeline: the libraries' layouts keep the weights as they are")
    if pipeline:
        save_pipeline(open_model(checkpoint, trust_code=trust_code), output, dtype and getattr(torch, dtype))
    else:
        with new_folder(output) as folder:
            model = open_model(checkpoint, trust_code=trust_code).model
            for part in PARTS:
                getattr(model, part).export(folder / part)
            shutil.copy(recipe, Run(folder).recipe)
    for file in sorted(Path(output).rglob("*.safetensors")):
        print(f"{file}: {file.stat().st_size / 1e6:,.1f} MB")


def _scheduler(objective: "NoiseObjective", sdxl: str | None) -> "Scheduler | None":
    """Return the scheduler of a pipeline's folder or hub id; None if it has none.

    Raises:
        UserError: It does not fit the objective.
    """
    from diffusers import EulerDiscreteScheduler

    from got_core.diffusion.schedulers import scheduler_from

    try:  # Any class of diffusers reads the configuration of any other.
        config = EulerDiscreteScheduler.load_config(sdxl, subfolder="scheduler")
    except (OSError, ValueError):
        return None
    with as_user_error(ValueError):
        return scheduler_from(objective, config)


def _repetition_penalty(qwen: str) -> float:
    """Return the repetition penalty of a language model's generation_config.json; 1 if it has none."""
    from transformers import GenerationConfig

    try:
        return float(GenerationConfig.from_pretrained(qwen).repetition_penalty or 1)
    except (OSError, ValueError):
        return 1.0


def _absolute(folder: str) -> str:
    """Return a local folder from the root, so that what is written works from anywhere, and a hub id as it is."""
    with as_user_error(FileNotFoundError):
        path = locate(folder)
    return str(Path(path).resolve()) if Path(path).exists() else path
