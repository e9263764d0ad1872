"""Distributed checkpoints (folders written by every rank) read without their ranks."""

from pathlib import Path
from pickle import UnpicklingError

from lightning import LightningModule
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from got_core.errors import UserError

WEIGHTS = "state_dict"
"""Where they hold the weights, averaged ones where a run averaged them."""

_NAMED = 5


def check_fits(system: LightningModule, folder: Path) -> None:
    """Compare names and shapes of a distributed checkpoint's weights with a system's; reads no weights.

    Raises:
        UserError: It is no checkpoint, or of another model.
    """
    try:
        entries = FileSystemReader(folder).read_metadata().state_dict_metadata
    except (OSError, EOFError, UnpicklingError, AttributeError) as error:
        raise UserError(f"{folder}: not a readable checkpoint ({type(error).__name__})") from error
    sizes = {name: entry.size for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}
    wrong = []
    for name, tensor in system.state_dict().items():
        size = sizes.get(f"{WEIGHTS}.{name}")
        if size != tensor.shape:
            wrong.append(f"{name} {'is missing' if size is None else f'is {list(size)}, not {list(tensor.shape)}'}")
    if wrong:
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise UserError(f"{folder} does not fit its recipe: {', '.join(wrong[:_NAMED])}{more}")


def load_distributed(system: LightningModule, folder: Path) -> None:
    """Load all of a distributed checkpoint's weights in one process, which needs no process group.

    Raises:
        UserError: It is no checkpoint, or of another model.
    """
    check_fits(system, folder)
    state = system.state_dict()
    distributed_checkpoint.load({WEIGHTS: state}, checkpoint_id=folder, no_dist=True)
    system.load_state_dict(state)
