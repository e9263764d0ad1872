"""The DataModule: a weighted mixture to train on, datasets to validate on, and loaders that resume exactly."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lightning import LightningDataModule, Trainer
from torch import Generator
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from got_core.chain.parser import parse, spliced
from got_core.data.mixture import Mixture, Source
from got_core.interfaces import Processor
from got_core.types import Batch, Sample

ChainForm = Literal["whole", "words", "none"]

_JOINT = re.compile(r"(?:,\s*and\b|\s+and\b|,)\s*$")


@dataclass(frozen=True)
class FormedChains:
    """A processor that gives another one the samples with their chains in a form; picklable.

    Args:
        processor: Makes the batches.
        form: See `in_form`.
    """

    processor: Processor
    form: ChainForm

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """A batch of the samples with formed chains."""
        return self.processor([replace(sample, chain=in_form(sample.chain, self.form)) for sample in samples])


def in_form(chain: str, form: ChainForm) -> str:
    """A chain as it is ("whole"), without its boxes and the colours behind them ("words"), or empty ("none")."""
    if form == "none":
        return ""
    return without_boxes(chain) if form == "words" else chain


def without_boxes(text: str) -> str:
    """A chain's words alone: each region becomes its phrase, one without words of its own goes with its joining word.

    What `got_core.chain.parser` cannot read as a region stays as it is.
    """
    changes, low = [], 0
    for place in parse(text).locations:
        phrase = text[slice(*place.phrase)]
        joint = None if phrase else _JOINT.search(text, low, place.start)
        changes.append((joint.start() if joint else place.start, place.end, phrase))
        low = place.end
    return spliced(text, changes)


class Walk(DistributedSampler[int]):
    """Gives rank r of R the indices r, r + R, r + 2R ... of a mixture; each epoch begins where the last one ended.

    An epoch is cut to whole batches on every rank; what is cut off comes first in the next.

    Args:
        mixture: What is walked; its length is that of an epoch, over all ranks.
        batch_size: Samples of a batch on one rank.
        num_replicas: Number R of ranks.
        rank: This rank r.

    Attributes:
        epoch: The epoch that is walked; never goes back.
        taken: Batches of it that have been taken.

    Raises:
        ValueError: An epoch holds less than one batch for every rank.
    """

    def __init__(self, mixture: Mixture, batch_size: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(mixture, num_replicas, rank, shuffle=False)
        self.epoch = 0
        self.taken = 0
        self.batch_size = batch_size
        self.batches = len(mixture) // (batch_size * num_replicas)
        if self.batches < 1:
            raise ValueError(
                f"an epoch of {len(mixture)} samples is less than one batch of {batch_size} on each of "
                f"{num_replicas} devices"
            )
        self.num_samples = self.batches * batch_size
        self.total_size = self.num_samples * num_replicas

    def __iter__(self) -> Iterator[int]:
        start = self.position + self.rank
        left = self.num_samples - self.taken * self.batch_size
        return iter(range(start, start + left * self.num_replicas, self.num_replicas))

    @property
    def position(self) -> int:
        """Samples that all ranks have taken since the first epoch began."""
        return self.epoch * self.total_size + self.taken * self.batch_size * self.num_replicas

    @position.setter
    def position(self, position: int) -> None:
        self.epoch, rest = divmod(position, self.total_size)
        self.taken = rest // (self.batch_size * self.num_replicas)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, unless it has already begun."""
        if epoch > self.epoch:
            self.epoch, self.taken = epoch, 0

    def begin(self) -> None:
        """Begin the next epoch if this one is done."""
        if self.taken == self.batches:
            self.set_epoch(self.epoch + 1)


class ResumableLoader(DataLoader):
    """A loader whose state is its place in a mixture.

    A mixture's sample depends on its index alone, so the place is all there is to save, and the number of workers may
    differ when it is loaded.

    Args:
        mixture: What is loaded.
        batch_size: Samples of a batch on this rank.
        num_replicas, rank: Number of ranks, and this one.
        options: Of `torch.utils.data.DataLoader`.
    """

    def __init__(self, mixture: Mixture, batch_size: int, num_replicas: int, rank: int, **options: Any) -> None:
        self.walk = Walk(mixture, batch_size, num_replicas, rank)
        super().__init__(mixture, batch_size, sampler=self.walk, **options)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self.walk.begin()
        for batch in super().__iter__():
            self.walk.taken += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The place after the last batch that was given out."""
        return {"position": self.walk.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from that place."""
        self.walk.position = state["position"]


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
