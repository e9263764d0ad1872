"""What a distributed checkpoint holds, a folder that every rank has written."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import nn
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from got_core.averaging import TRAINED
from got_core.errors import UserError
from got_core.origins import keep, left_out

DESCRIPTION = "meta.pt"
"""The file in the folder that holds all but weights and the optimizer's state."""

WEIGHTS = "state_dict"
"""Where a training checkpoint of any kind holds the weights, averaged ones where a run averaged them."""

_PREFIX = f"{WEIGHTS}."


def distributed_shapes(folder: Path) -> dict[str, torch.Size]:
    """The shapes of the weights by name; copies no weights.

    Raises:
        UserError: It is no distributed checkpoint.
    """
    try:
        entries = FileSystemReader(folder).read_metadata().state_dict_metadata
    except (OSError, EOFError, UnpicklingError, AttributeError, ValueError, LookupError, ImportError) as error:
        raise UserError(f"{folder}: not a readable checkpoint ({type(error).__name__})") from error
    return {
        name.removeprefix(_PREFIX): entry.size
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata)
        and name.startswith(_PREFIX)
        and not name.startswith(f"{_PREFIX}{TRAINED}.")
    }


def load_left_out(module: nn.Module, folder: Path) -> None:
    """Load those weights that the module leaves to their origin and the checkpoint holds all the same; and keep them.

    Lightning reads only what the module's `state_dict()` asks for. Every rank must call this.

    Raises:
        UserError: It is no distributed checkpoint.
    """
    held = distributed_shapes(folder)
    brought = {name: weight.detach() for name, weight in left_out(module).items() if name in held}
    keep(module, brought)
    if brought:
        distributed_checkpoint.load({WEIGHTS: brought}, checkpoint_id=folder)
