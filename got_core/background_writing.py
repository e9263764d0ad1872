"""Checkpoint files that are written while training goes on."""

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor


class BackgroundCheckpointIO(TorchCheckpointIO):
    """Copies a checkpoint's tensors to host memory and writes the copy in a thread, one checkpoint at a time.

    Args:
        written: Called in the thread with the path and the step of each checkpoint once it is complete.
    """

    def __init__(self, written: Callable[[Path, int], None]) -> None:
        super().__init__()
        self._written = written
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Begin to write, once the one before is written.

        Raises:
            OSError, RuntimeError: The one before could not be written.
        """
        self.wait()
        copies: dict[Hashable, Tensor] = {}
        snapshot = apply_to_collection(checkpoint, Tensor, lambda tensor: _copy(tensor, copies))
        self._writing = self._thread.submit(self._write, snapshot, Path(path), storage_options)

    def wait(self) -> None:
        """Return when nothing is being written.

        Raises:
            OSError, RuntimeError: What was being written could not be.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, checkpoint: dict[str, Any], path: Path, storage_options: Any) -> None:
        super().save_checkpoint(checkpoint, path, storage_options)
        self._written(path, checkpoint["global_step"])


def _copy(tensor: Tensor, copies: dict[Hashable, Tensor]) -> Tensor:
    """A copy in host memory; what occurs under several names, such as tied weights, is copied once."""
    place = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.dtype, tensor.shape, tensor.stride())
    if place not in copies:
        copies[place] = tensor.detach().to("cpu", copy=True)
    return copies[place]
