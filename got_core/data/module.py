"""The DataModule: a weighted mixture to train on, datasets to validate on, and loaders that resume exactly."""

from typing import Any

from lightning import LightningDataModule, Trainer
from torch import Generator
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from got_core.data.loader import ResumableLoader
from got_core.data.mixture import Mixture, Source


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

    Raises:
        ValueError: Sizes that are not positive or, when the loader is made, an epoch of less than one batch.
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
            "collate_fn": model.processor,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": trainer.strategy.root_device.type == "cuda",
            "generator": Generator().manual_seed(self.seed),
        }
