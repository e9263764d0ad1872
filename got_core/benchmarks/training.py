"""Seconds of a training step: the recipe under the Trainer, the same as a bare loop, and plain research code."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.table import Table
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn
from torch.utils.data import DataLoader

from got_core.benchmarks.measuring import Stopwatch, Timings, in_turns
from got_core.data.caches import precomputed
from got_core.data.datamodule import GoTDataModule
from got_core.errors import UserError
from got_core.interfaces import LatentCodec
from got_core.training.ema import AveragedWeights
from got_core.training.recipe import ResolvedRecipe, build_data, build_model
from got_core.training.system import GoTSystem
from got_core.types import Batch, Reasoning, Sample

FIT, BARE, PLAIN = "Trainer.fit", "bare loop", "plain research code"
STEPS = "steps"
"""The stage that is timed."""

DECAY, CLIP = 0.99, 1.0
"""Of the averaged weights, and of the gradient's norm, in all three."""


def recipe_parts(recipe: Sequence[str], batches: int) -> tuple[GoTSystem, list[list[Sample]]]:
    """Build a recipe's system and read the samples of the first training batches.

    Args:
        recipe: Its files; later ones replace values of earlier ones.
        batches: How many.

    Raises:
        UserError: The recipe trains something else.
    """
    config = ResolvedRecipe(recipe).config
    torch.manual_seed(0)
    system, data = build_model(config.model.as_dict()), build_data(config.data.as_dict())
    if not (isinstance(system, GoTSystem) and isinstance(data, GoTDataModule)):
        raise UserError(f"{recipe[-1]}: got bench training measures recipes of a GoTSystem with a GoTDataModule")
    size, mixture = data.batch_size, data.mixture
    return system, [[mixture[batch * size + index] for index in range(size)] for batch in range(batches)]


class BareLoop:
    """The recipe's step in a loop of its own: what the Trainer's cost is counted from."""

    def __init__(self, system: GoTSystem) -> None:
        self.system = deepcopy(system).train()
        self.parameters = [p for p in self.system.parameters() if p.requires_grad]
        self.optimizer = system.optimizer(self.parameters)
        self.averages = [p.detach().clone() for p in self.parameters]

    def __call__(self, batches: Sequence[Batch]) -> list[float]:
        """Train a step with each batch; returns the losses."""
        losses = []
        for batch in batches:
            loss = self.loss(batch)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.clip()
            self.optimizer.step()
            self.average()
            losses.append(loss.item())
        return losses

    def loss(self, batch: Batch) -> Tensor:
        """Return the joint loss."""
        reasoning = self.system.reasoner(batch)
        return self._joint(batch, reasoning, reasoning.loss, self.system.codec)

    def clip(self) -> None:
        """Clip by one norm, as `GoTSystem` does."""
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)

    def average(self) -> None:
        """Average all weights in one operation."""
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - DECAY)

    def _joint(self, batch: Batch, reasoning: Reasoning, chain_loss: Tensor | None, codec: LatentCodec) -> Tensor:
        system = self.system
        guidance = system.drop_conditions(system.guidance(reasoning, batch, codec))
        denoising = system.denoising_weight * system.denoising_loss(batch, guidance)
        return denoising if chain_loss is None else system.chain_weight * chain_loss + denoising


class PlainCode(BareLoop):
    """Research code as it is often written: padded to the longest, a second reading for the states, masks one by one.

    The optimizer is not fused, and the average is updated tensor by tensor.
    """

    def __init__(self, system: GoTSystem) -> None:
        super().__init__(system)
        reasoner: Any = self.system.reasoner
        reasoner.length_groups = 1
        for group in self.optimizer.param_groups:
            group["fused"] = False
        self.averaged = AveragedModel(self.system, avg_fn=get_ema_avg_fn(DECAY))

    def loss(self, batch: Batch) -> Tensor:
        """Return the joint loss, from two readings."""
        chain_loss, again = self.system.reasoner(batch).loss, self.system.reasoner(batch)
        return self._joint(batch, again, chain_loss, _OneByOne(self.system.codec))

    def average(self) -> None:
        """Average tensor by tensor."""
        self.averaged.update_parameters(self.system)


class _OneByOne(LatentCodec):
    """A codec that encodes one image after the other."""

    def __init__(self, codec: LatentCodec) -> None:
        super().__init__()
        self.codec, self.latent_channels, self.downsample = codec, codec.latent_channels, codec.downsample

    def encode(self, images: Float[Tensor, "b 3 H W"], scaled: bool = True) -> Float[Tensor, "b c h w"]:
        """Encode each image by itself."""
        return torch.cat([self.codec.encode(image, scaled) for image in images.split(1)])

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Decode as the codec does."""
        return self.codec.decode(latents)


class _Timed(Callback):
    """Times the steps of a fit after its first one."""

    def __init__(self, watch: Stopwatch) -> None:
        self.stage = watch.stage(STEPS)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            self.stage.__enter__()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.stage.__exit__(None, None, None)


def fit(system: GoTSystem, batches: Sequence[Batch], watch: Stopwatch, device: torch.device) -> None:
    """Train with the Trainer, with what recipes have: averaged weights, clipping and a log."""
    loader: Any = DataLoader([batches[0], *batches], batch_size=None, collate_fn=lambda batch: batch)  # type: ignore
    with TemporaryDirectory() as folder, torch.enable_grad():
        trainer = Trainer(
            accelerator="cpu" if device.type == "cpu" else "gpu",
            devices=1,
            max_steps=len(batches) + 1,
            gradient_clip_val=CLIP,
            callbacks=[AveragedWeights(DECAY), _Timed(watch)],
            logger=TensorBoardLogger(folder),
            log_every_n_steps=20,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(deepcopy(system), loader)


def compare_steps(
    recipe: Sequence[str], steps: int, repeats: int, device: torch.device, cached: bool = False
) -> tuple[Timings, float]:
    """Time training steps in all ways in turns, and return the largest difference of two ways' losses too.

    Args:
        recipe: Its files.
        steps: Of a turn.
        repeats: Turns.
        device: That computes.
        cached: The Trainer and the bare loop take what `got data cache` computes once; plain research code does not.
    """
    system, samples = recipe_parts(recipe, steps)
    system.to(device)
    plain = batches = [system.processor(each).to(device) for each in samples]
    if cached:
        given = [precomputed(system.model, each, batch) for each, batch in zip(samples, plain, strict=True)]
        batches = [system.processor(each).to(device) for each in given]
    losses = []
    for way, taken in ((BareLoop, batches), (PlainCode, plain)):
        torch.manual_seed(0)
        losses.append(torch.tensor(way(system)(taken)))
    loops = {BARE: BareLoop(system), PLAIN: PlainCode(system)}

    def by(loop: BareLoop) -> Callable[[Stopwatch], None]:
        def task(watch: Stopwatch) -> None:
            with torch.enable_grad(), watch.stage(STEPS):
                loop(plain if isinstance(loop, PlainCode) else batches)

        return task

    tasks = {FIT: lambda watch: fit(system, batches, watch, device), **{name: by(loop) for name, loop in loops.items()}}
    return in_turns(tasks, repeats, device), float((losses[0] - losses[1]).abs().max())


def step_table(timings: Timings, recipe: Sequence[str], steps: int, difference: float) -> Table:
    """Return a table of milliseconds a step, and of how many times as fast each way is as the others."""
    table = Table(
        title=f"{Path(recipe[-1]).stem}: a training step",
        title_justify="left",
        caption=f"{timings.clock} milliseconds, medians; losses of {steps} steps differ by at most {difference:.1e}",
        caption_justify="left",
    )
    for heading in ("", "ms a step", f"over {BARE}", f"over {PLAIN}"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in (FIT, BARE, PLAIN):
        ratios = ["" if other == name else str(timings.ratio(other, name)) for other in (BARE, PLAIN)]
        table.add_row(name, f"{1000 * timings.median(name) / steps:.1f}", *ratios)
    return table
