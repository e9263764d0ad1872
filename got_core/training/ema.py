"""An exponential moving average of the weights that is sharded as they are."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.tensor import DTensor, distribute_tensor

from got_core.training.parallel import local, reshard, whole
from got_core.weights.checkpoints import TRAINED, MetadataReader


class AveragedWeights(Callback):
    """Averages the trained weights after every optimizer step; validation, checkpoints and the result use the average.

    Lightning's `EMAWeightAveraging` copies the module, which is not possible once it is sharded, and an earlier copy
    would hold whole weights, which sharded checkpoints cannot store. This holds one tensor for each trained parameter,
    placed and sharded like it, and updates them all in one operation. On one device and under DDP it equals
    `EMAWeightAveraging(use_buffers=False)` up to rounding, and resumes its runs. Frozen weights and buffers are their
    own average.

    In a file, `state_dict` holds the averaged weights and `current_model_state` the trained ones of what is averaged.
    In a distributed checkpoint the latter are among the weights, under names with that prefix.

    Args:
        decay: Fraction of the old average that stays at each step.

    Raises:
        ValueError: The decay is not in 0..1.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must lie in 0..1, not {decay}")
        self.decay = decay
        self.updates = 0
        self._step = 0
        self._averages: dict[str, Tensor] = {}
        self._resumed: Path | dict[str, Tensor] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reset the state."""
        if stage == "fit":
            self.updates, self._resumed = 0, None

    def state_dict(self) -> dict[str, Any]:
        """Return how many steps are in the average."""
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of steps."""
        self.updates = state_dict["updates"]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the trained weights until the averaged ones are loaded."""
        self._resumed = checkpoint.get(TRAINED, Path(str(trainer.ckpt_path)))

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the weights as they are; on resuming these are the averaged ones: restore the trained ones."""
        reshard(pl_module)
        self._step = trainer.global_step
        parameters = _trained(pl_module)
        self._averages = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        if isinstance(self._resumed, Path) and self._resumed.is_dir() and self.updates:
            names = {f"{TRAINED}.{name}": parameter.detach() for name, parameter in parameters.items()}
            distributed_checkpoint.load({"state_dict": names}, storage_reader=MetadataReader(self._resumed))
        elif isinstance(self._resumed, dict):
            for name, parameter in parameters.items():
                _copy(self._resumed[name], parameter)
            self.updates = max(self.updates, 1)
        elif trainer.global_step:
            rank_zero_warn("the checkpoint was made without averaging: the average begins with its weights")
        self._resumed = None

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the average towards the weights, after an optimizer step."""
        if trainer.global_step <= self._step:
            return
        pairs = [(self._averages[name], parameter.detach()) for name, parameter in _trained(pl_module).items()]
        averages, currents = ([local(each) for each in side] for side in zip(*pairs, strict=True))
        # In one operation for all tensors; the first step is the average.
        torch._foreach_lerp_(averages, currents, 1 - self.decay if self.updates else 1.0)
        self.updates += 1
        self._step = trainer.global_step

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate with the average."""
        self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue training with the trained weights."""
        self._swap(pl_module)

    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the module."""
        reshard(pl_module)
        for name, parameter in _trained(pl_module).items():
            local(parameter.detach()).copy_(local(self._averages[name]))
        self._averages = {}

    @torch.no_grad()
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the averaged weights into `state_dict` and the trained ones beside them."""
        if not self._averages:
            return
        reshard(pl_module)
        state = checkpoint["state_dict"]
        distributed = any(isinstance(value, DTensor) for value in state.values())
        trained: dict[str, Tensor] = {}
        aliases: dict[int, list[str]] = defaultdict(list)
        for alias, parameter in pl_module.named_parameters(remove_duplicate=False):
            aliases[id(parameter)].append(alias)
        for name, average in self._averages.items():
            average = average.cpu() if distributed else whole(average).cpu()
            for alias in aliases[id(pl_module.get_parameter(name))]:
                if alias in state:
                    trained[alias], state[alias] = state[alias], average
        if distributed:
            state.update({f"{TRAINED}.{name}": value for name, value in trained.items()})
        else:
            checkpoint[TRAINED] = trained

    @torch.no_grad()
    def _swap(self, pl_module: LightningModule) -> None:
        reshard(pl_module)
        for name, average in self._averages.items():
            parameter = local(pl_module.get_parameter(name).detach())
            trained = parameter.clone()
            parameter.copy_(local(average))
            local(average).copy_(trained)


def _trained(module: LightningModule) -> dict[str, Tensor]:
    """Return the parameters that are trained, by name, each once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _copy(value: Tensor, parameter: Tensor) -> None:
    """Copy a whole tensor, which every rank has, into a parameter."""
    if isinstance(parameter, DTensor):
        value = distribute_tensor(
            value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
        )
    parameter.copy_(value)
