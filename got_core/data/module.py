"""The DataModule: a weighted mixture to train on, datasets to validate on, and loaders that resume exactly."""

from typing import Any

from lightning import LightningDataModule, Trainer
from torch import Generator
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from got_core.data.chain_form import ChainForm, FormedChains
from got_core.data.loader import ResumableLoader
from got_core.data.mixture import Mixture, Source


def accumulated_batches(global_batch_size: int, batch_size: int, devices: int) -> int:
    """Batches of one device to an optimizer step.

    Raises:
        ValueError: They do not divide the global batch.
    """
    batches, rest = divmod(global_batch_size, batch_size * devices)
    if rest or not batches:
        raise ValueError(
            f"a global batch of {global_batch_size} does not divide into batches of {batch_size} on {devices} "
            f"device{'s' if devices > 1 else ''}: choose a batch_size and a number of devices whose product divides it"
        )
    return batches


class GoTDataModule(LightningDataModule):
    """Loads samples and has them made into batches by the model's `processor`, in the loader's workers.

    Training goes through an endless mixture of the sources. A checkpoint taken at any step of fit holds the loader's
    place, and a run resumed from it sees the very samples that the uninterrupted run would have seen, on the same
    number of ranks and with any number of workers.

    Args:
        train: Datasets and their weights.
        validation: Datasets to validate on, each whole and in order with a loader of its own. Where the number of
            ranks does not divide a dataset, its first samples are repeated at the end.
        batch_size: Training samples of a step on one rank.
        validation_batch_size: The same in validation; `batch_size` by default.
        num_workers: Processes of each loader; 0 loads in the main process.
        seed: Seed of the mixture's order.
        samples_per_epoch: Training samples of an epoch, over all ranks; the sum of the sources' lengths by default.
        global_batch_size: Training samples of an optimizer step over all ranks, whatever their number: gradients are
            accumulated over as many batches as it takes. None leaves that to the trainer's `accumulate_grad_batches`.
        chains: What is kept of the samples' chains, in training and validation: the "whole" of them, their "words"
            without boxes, a rewritten prompt, or "none", an empty chain to every prompt.

    Raises:
        ValueError: Sizes that are not positive or, when the trainer is known, a global batch that the ranks' batches do
            not divide, or an epoch of less than one batch.
    """

    def __init__(
        self,
        train: list[Source],
        validation: Dataset | list[Dataset] | None = None,
        batch_size: int = 32,
        validation_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        samples_per_epoch: int | None = None,
        global_batch_size: int | None = None,
        chains: ChainForm = "whole",
    ) -> None:
        super().__init__()
        if min(batch_size, validation_batch_size or 1) < 1 or num_workers < 0:
            raise ValueError("batch_size and validation_batch_size must be at least 1, num_workers at least 0")
        length = sum(len(source.dataset) for source in train) if samples_per_epoch is None else samples_per_epoch  # type: ignore[arg-type]
        self.mixture = Mixture(train, length, seed)
        self.validation = validation if isinstance(validation, list) else [validation] if validation else []
        self.batch_size = batch_size
        self.validation_batch_size = validation_batch_size or batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.global_batch_size = global_batch_size
        self.chains: ChainForm = chains

    def setup(self, stage: str) -> None:
        """Before fitting, have gradients accumulated over as many batches as the global batch takes."""
        if stage != "fit" or self.global_batch_size is None:
            return
        trainer = self._trainer()
        batches = accumulated_batches(self.global_batch_size, self.batch_size, trainer.world_size)
        if trainer.accumulate_grad_batches not in (1, batches):
            raise ValueError(
                f"accumulate_grad_batches is {trainer.accumulate_grad_batches}, but a global batch of "
                f"{self.global_batch_size} takes {batches}: leave accumulate_grad_batches out"
            )
        trainer.accumulate_grad_batches = batches

    def train_dataloader(self) -> ResumableLoader:
        """Whole batches from the mixture, each rank its own."""
        trainer = self._trainer()
        return ResumableLoader(self.mixture, self.batch_size, trainer.world_size, trainer.global_rank, **self._common())

    def val_dataloader(self) -> list[DataLoader]:
        """One loader a dataset, in order."""
        trainer = self._trainer()
        ranks, rank = trainer.world_size, trainer.global_rank
        return [
            DataLoader(
                dataset,
                self.validation_batch_size,
                sampler=DistributedSampler(dataset, ranks, rank, shuffle=False) if ranks > 1 else None,
                **self._common(),
            )
            for dataset in self.validation
        ]

    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise ValueError("loaders are made for a trainer: pass the DataModule to fit or validate")
        return self.trainer

    def _common(self) -> dict[str, Any]:
        trainer = self._trainer()
        model: Any = trainer.lightning_module
        return {
            "collate_fn": model.processor if self.chains == "whole" else FormedChains(model.processor, self.chains),
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": trainer.strategy.root_device.type == "cuda",
            "generator": Generator().manual_seed(self.seed),
        }
