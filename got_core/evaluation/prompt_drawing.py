"""Draws prompts into GenEval's layout under a Trainer, each rank a share of the prompts that lack images."""

from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import Dataset

from got_core.evaluation.drawing_folder import Wanted
from got_core.evaluation.drawing_under_trainer import DrawingUnderTrainer, write_image
from got_core.evaluation.geneval_folder import CHAINS
from got_core.types import Batch, Sample


class _Requests(Dataset[Sample]):
    """Images to be drawn, as samples for a reasoner's processor."""

    def __init__(self, wanted: Sequence[Wanted], size: tuple[int, int]) -> None:
        self.wanted, self.size = wanted, size

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, index: int) -> Sample:
        wanted = self.wanted[index]
        return Sample(prompt=wanted.prompt, chain="", size=self.size, meta={"wanted": wanted})


class PromptDrawing(DrawingUnderTrainer):
    """Draws prompts: a prompt's chain is written once, greedily, and all of its images are drawn from it."""

    def share(self, rank: int, ranks: int) -> Dataset[Sample]:
        """Every so many prompts."""
        folders = list(dict.fromkeys(wanted.folder for wanted in self.wanted))
        own = set(folders[rank::ranks])
        return _Requests([wanted for wanted in self.wanted if wanted.folder in own], self.size)

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Draw a batch, each image from its own seed, and write it."""
        wanted: list[Wanted] = [meta["wanted"] for meta in batch.meta]
        drawing = self.draw(batch, self._chains(batch, wanted), [entry.seed for entry in wanted])
        for entry, image in zip(wanted, drawing.images, strict=True):
            write_image(entry.image, image)

    def _chains(self, batch: Batch, wanted: Sequence[Wanted]) -> list[str]:
        """The chain of each image: its prompt's where that is written, else written now, once a prompt."""
        chains = {entry.folder: _written_chain(entry.folder) for entry in wanted}
        firsts = {entry.folder: sample for entry, sample in zip(wanted, batch.samples(), strict=True)}
        lacking = [folder for folder, chain in chains.items() if chain is None]
        if lacking:
            asked = self.system.processor([firsts[folder] for folder in lacking]).to(self.device)
            chains |= zip(lacking, self.system.plan(asked).chains, strict=True)
        found = [chains[entry.folder] or "" for entry in wanted]
        for entry, chain in zip(wanted, found, strict=True):
            entry.chain.write_bytes(f"{chain}\n".encode())
        return found


def _written_chain(folder: Path) -> str | None:
    """The chain that images of a prompt were drawn from; None where there is none yet."""
    for file in sorted((folder / CHAINS).glob("*.txt")):
        text = file.read_bytes().decode()
        if text.endswith("\n"):
            return text[:-1]
    return None
