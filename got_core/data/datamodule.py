"""The DataModule: a weighted mixture for training, datasets for validation, and loaders that resume exactly."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning import LightningDataModule, Trainer
from torch import Generator
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from got_core.chain.parser import parse, spliced
from got_core.data.buckets import Bucketed, Buckets, BucketSampler
from got_core.data.caches import open_cache
from got_core.data.mixture import Mixture, Source
from got_core.data.quarantine import Quarantine, Tolerant
from got_core.data.records import Chains, bad_chains
from got_core.interfaces import Processor
from got_core.model import GoTModel
from got_core.paths import Run
from got_core.types import Batch, Sample

ChainForm = Literal["whole", "words", "none"]

PROBLEMS, CUT = "chain_problems", "chains_cut"
"""Counts in `Batch.meta`, and what training logs."""

_JOINT = re.compile(r"(?:,\s*and\b|\s+and\b|,)\s*$")


def batch_in_form(processor: Processor, form: ChainForm, samples: Sequence[Sample]) -> Batch:
    """Make a batch of samples with their chains in a form (`in_form`).

    The entry in `Batch.meta` of a chain with problems has their number, `chain_problems`, and that of one which the
    processor cut has `chains_cut`, 1.
    """
    given = [replace(sample, chain=in_form(sample.chain, form)) for sample in samples]
    for index, sample in enumerate(given):
        if problems := parse(sample.chain).problems:
            given[index] = replace(sample, meta={**sample.meta, PROBLEMS: len(problems)})
    batch = processor(given)
    cut = [chain != sample.chain for chain, sample in zip(batch.chains, given, strict=True)]
    if not any(cut):
        return batch
    return replace(batch, meta=tuple({**m, CUT: 1} if c else m for m, c in zip(batch.meta, cut, strict=True)))


def in_form(chain: str, form: ChainForm) -> str:
    """Return a chain as it is ("whole"), without its boxes and the colours behind them ("words"), or empty ("none")."""
    if form == "none":
        return ""
    return without_boxes(chain) if form == "words" else chain


def without_boxes(text: str) -> str:
    """Keep a chain's words only: each region becomes its phrase; one without words is removed with its joining word.

    What `got_core.chain.parser` cannot read as a region stays as it is.
    """
    changes, low = [], 0
    for location in parse(text).locations:
        phrase = text[slice(*location.phrase)]
        joint = None if phrase else _JOINT.search(text, low, location.start)
        changes.append((joint.start() if joint else location.start, location.end, phrase))
        low = location.end
    return spliced(text, changes)


class MixtureSampler(DistributedSampler[int]):
    """Gives rank r of R the indices r, r + R, r + 2R ... of a mixture; each epoch begins where the last one ended.

    An epoch is cut to whole batches on every rank. The samples that are cut off come first in the next epoch.

    Args:
        mixture: Its length is that of an epoch, over all ranks.
        batch_size: Samples of a batch on one rank.
        num_replicas: Number R of ranks.
        rank: This rank r.

    Attributes:
        epoch: The current epoch; never decreases.
        taken: Batches of the epoch that have been taken.

    Raises:
        ValueError: An epoch holds less than one batch for every rank.
    """

    def __init__(self, mixture: Mixture, batch_size: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(mixture, num_replicas, rank, shuffle=False)
        self.mixture = mixture
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
        """Samples that all ranks have taken since the start of the first epoch."""
        return self.epoch * self.total_size + self.taken * self.batch_size * self.num_replicas

    @position.setter
    def position(self, position: int) -> None:
        self.epoch, rest = divmod(position, self.total_size)
        self.taken = rest // (self.batch_size * self.num_replicas)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, unless it has already begun."""
        if epoch > self.epoch:
            self.epoch, self.taken = epoch, 0

    def advance(self) -> None:
        """Count a batch that has been returned."""
        self.taken += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last batch that was returned."""
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a position, of any number of ranks."""
        self.position = state["position"]


class ResumableLoader(DataLoader):
    """A loader whose state is its position in a mixture.

    A mixture's sample depends on its index alone, so only the position is saved, and the number of workers may differ
    when it is loaded.

    Args:
        order: What gives the mixture's samples: one by one, or in batches of one size.
        options: Of `torch.utils.data.DataLoader`.
    """

    def __init__(self, order: MixtureSampler | BucketSampler, **options: Any) -> None:
        self.order = order
        if isinstance(order, BucketSampler):
            super().__init__(order.mixture, batch_sampler=order, **options)
        else:
            super().__init__(order.mixture, order.batch_size, sampler=order, **options)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        if self.order.taken == self.order.batches:
            self.order.set_epoch(self.order.epoch + 1)
        for batch in super().__iter__():
            self.order.advance()
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last batch that was returned."""
        return self.order.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a position."""
        self.order.load_state_dict(state)


def accumulated_batches(global_batch_size: int, batch_size: int, devices: int) -> int:
    """Compute the number of batches of one device for an optimizer step.

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
    """Loads samples and makes batches with the model's `processor`, in the loader's workers.

    Training reads an endless mixture of the sources. A checkpoint of any step of fit holds the loader's position, and a
    run that is resumed from it gets exactly the samples of the uninterrupted run, on the same number of ranks and with
    any number of workers.

    Args:
        train: Datasets and their weights.
        validation: Datasets for validation, each whole and in order with a loader of its own. Where the number of
            ranks does not divide a dataset, its first samples are repeated at the end.
        batch_size: Training samples of a step on one rank.
        validation_batch_size: The same in validation; `batch_size` by default.
        num_workers: Processes of each loader; 0 loads in the main process.
        seed: Seed of the mixture's order.
        samples_per_epoch: Training samples of an epoch, over all ranks; the sum of the sources' lengths by default.
        global_batch_size: Training samples of an optimizer step over all ranks: gradients are accumulated over as many
            batches as necessary. None leaves that to the trainer's `accumulate_grad_batches`.
        chains: The part of the samples' chains that is used, in training and validation: "whole"; "words", without
            boxes, as a rewritten prompt; or "none", an empty chain for every prompt.
        max_bad_chains: Fraction of a source's chains, of 1,000 that are checked before training, that may lose boxes.
        cache: Folder of what `got data cache` has precomputed of the sources; training then encodes no image.
        on_bad_record: What becomes of a record that cannot be read, in training and validation. "replace" takes another
            of its source in its place, the same whenever that sample is read, and lists it in the run's folder in
            `bad_records.jsonl`; "raise" ends the run.
        max_bad_records: Fraction of a rank's training samples that may be replaced before the run ends, once 20 were.
        buckets: Sizes of training images, in place of their datasets' one size; each image has that of the nearest
            aspect ratio, and an optimizer step's images have one. The headers of all images are read on every rank, but
            those of a built stream are in its index.

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
        max_bad_chains: float = 0.05,
        cache: str | None = None,
        on_bad_record: Literal["replace", "raise"] = "replace",
        max_bad_records: float = 0.05,
        buckets: Buckets | None = None,
    ) -> None:
        super().__init__()
        if min(batch_size, validation_batch_size or 1) < 1 or num_workers < 0:
            raise ValueError("batch_size and validation_batch_size must be at least 1, num_workers at least 0")
        self.tolerant = on_bad_record == "replace"
        self.quarantine = Quarantine(max_bad_records)
        self.mixture = Mixture(train, samples_per_epoch, seed, self.tolerant)
        self.validation = validation if isinstance(validation, list) else [validation] if validation else []
        self.batch_size = batch_size
        self.validation_batch_size = validation_batch_size or batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.global_batch_size = global_batch_size
        self.chains: ChainForm = chains
        self.max_bad_chains = max_bad_chains
        self.cache = cache
        self.buckets = buckets

    def setup(self, stage: str) -> None:
        """Check the samples' sizes, and before fitting the sources' chains; set how many batches make a global batch.

        Raises:
            ValueError: The model cannot generate images of a sample's size, more chains of a source than
                `max_bad_chains` lose boxes, or a global batch is impossible.
            UserError: The cache is not one of these sources by this model.
        """
        self._check_sizes()
        if stage == "fit" and self.chains == "whole":
            self._check_chains()
        if stage == "fit" and self.cache is not None:
            self._open_cache(self.cache)
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

    def _check_sizes(self) -> None:
        module: Any = None if self.trainer is None else self.trainer.lightning_module
        model = getattr(module, "model", None)
        if isinstance(model, GoTModel):
            for dataset in (*(source.dataset for source in self.mixture.sources), *self.validation):
                model.check_size(self._read(dataset)[0].size)
            for size in () if self.buckets is None else self.buckets.sizes:
                model.check_size(size)

    def cached_by(self, model: GoTModel) -> dict[str, Any]:
        """Return what a cache of the sources for a model depends on, by readable names."""
        buckets = None if self.buckets is None else asdict(self.buckets)
        return {**model.precomputed_by(), "chains": self.chains, "buckets": buckets}

    @property
    def bucketed(self) -> list[Dataset[Sample]]:
        """The sources' datasets, each sample in the size that training takes it in."""
        datasets = [source.dataset for source in self.mixture.sources]
        return datasets if self.buckets is None else [Bucketed(dataset, self.buckets) for dataset in datasets]

    def _open_cache(self, folder: str) -> None:
        module: Any = self._trainer().lightning_module
        sources = self.mixture.sources
        cached = open_cache(folder, self.bucketed, self.cached_by(module.model))
        self.mixture = Mixture(
            [replace(source, dataset=dataset) for source, dataset in zip(sources, cached, strict=True)],
            len(self.mixture),
            self.seed,
            self.tolerant,
        )

    def _check_chains(self) -> None:
        for source in self.mixture.sources:
            if not isinstance(source.dataset, Chains):
                continue
            bad, checked = bad_chains(source.dataset, self.tolerant)
            if not bad:
                continue
            first = "; ".join(f"{chain.record}: {chain.box} ({chain.unit})" for chain in bad[:3])
            report = (
                f"{len(bad):,} of {checked:,} chains lose boxes, which are thousandths of width and height: {first}"
            )
            if len(bad) > self.max_bad_chains * checked:
                raise ValueError(f"{report}; at most {self.max_bad_chains:.0%} may (max_bad_chains)")
            if self._trainer().is_global_zero:
                print(report)

    def train_dataloader(self) -> ResumableLoader:
        """Make the loader of training: whole batches from the mixture, each rank its own."""
        trainer = self._trainer()
        if trainer.is_global_zero and trainer.ckpt_path is None:
            self.quarantine.begin(self._bad_records)
        ranks = (trainer.world_size, trainer.global_rank)
        if self.buckets is None:
            return ResumableLoader(MixtureSampler(self.mixture, self.batch_size, *ranks), **self._common())
        whole = self.batch_size * trainer.world_size * trainer.accumulate_grad_batches
        return ResumableLoader(
            BucketSampler(self.mixture, self.buckets, self.batch_size, whole, *ranks), **self._common()
        )

    def val_dataloader(self) -> list[DataLoader]:
        """Make one loader for each dataset of validation, in order."""
        trainer = self._trainer()
        ranks, rank = trainer.world_size, trainer.global_rank
        return [
            DataLoader(
                self._read(dataset),
                self.validation_batch_size,
                sampler=DistributedSampler(dataset, ranks, rank, shuffle=False) if ranks > 1 else None,
                **self._common(),
            )
            for dataset in self.validation
        ]

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Count the samples of a batch (UserError: too many were replaced)."""
        if self.tolerant and isinstance(batch, Batch):
            handle = self.quarantine.count if self._trainer().training else self.quarantine.add
            handle(batch.meta, self._bad_records)
        return batch

    def state_dict(self) -> dict[str, int]:
        """Return how many samples were read and replaced."""
        return {"read": self.quarantine.read, "replaced": self.quarantine.replaced}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on counting."""
        self.quarantine.read, self.quarantine.replaced = state_dict["read"], state_dict["replaced"]

    @property
    def _bad_records(self) -> Path:
        return Run(Path(self._trainer().default_root_dir)).bad_records

    def _read(self, dataset: Dataset[Sample]) -> Dataset[Sample]:
        return Tolerant(dataset) if self.tolerant else dataset

    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise ValueError("loaders are made for a trainer: pass the DataModule to fit or validate")
        return self.trainer

    def _common(self) -> dict[str, Any]:
        trainer = self._trainer()
        model: Any = trainer.lightning_module
        return {
            "collate_fn": partial(batch_in_form, model.processor, self.chains),
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": trainer.strategy.root_device.type == "cuda",
            "generator": Generator().manual_seed(self.seed),
        }
