"""The models that are measured, and requests to them."""

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from got_core.config import ModelSettings
from got_core.model import GoTModel
from got_core.types import Sample

MODELS = Path(__file__).with_name("models.yaml")
BACKBONES = ("unet", "dit")
"""The models of `MODELS`, by their backbone."""

SPREAD = 0.02
"""Standard deviation of the noise on all weights: what begins at zero would make comparisons empty."""

SEED = 0

WORDS = "a red circle beside a blue square and a green triangle above a white square "


def benchmark_model(name: str, device: torch.device, states: int | None = None) -> GoTModel:
    """Build one of the models of `MODELS` with random weights, its adapters unmerged.

    Args:
        name: Of `BACKBONES`.
        device: Where it is.
        states: Number N of states, in place of the model's own.
    """
    settings = yaml.safe_load(MODELS.read_text(encoding="utf-8"))[name]
    if states is not None:
        settings["init_args"]["reasoner"]["init_args"]["num_tokens"] = states
    torch.manual_seed(SEED)
    model = ModelSettings.read(settings, MODELS, None).build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(SPREAD * torch.randn_like(parameter))
    model.reasoner.get_buffer("_stops").fill_(-1)  # Random weights would end a chain anywhere.
    return model.eval().to(device)


def chain_of(model: GoTModel, tokens: int, boxes: int) -> str:
    """Return a chain of about so many tokens with so many boxes, no two alike."""
    count = model.reasoner.processor.chain_ids  # type: ignore[attr-defined]
    regions = []
    for index in range(boxes):
        left, top = 37 * index % 600, 53 * index % 600
        regions.append(f"a square ({left},{top}),({left + 300},{top + 300}) (red)")
    end, words = " and ".join(regions), WORDS.split()
    text: list[str] = []
    while len(count(" ".join([*text, end]))) < tokens:
        text.append(words[len(text) % len(words)])
    return " ".join([*text, end])


def requests(
    model: GoTModel, number: int, size: tuple[int, int], edit: bool, tokens: int = 165, boxes: int = 4
) -> Sequence[Sample]:
    """Return equal requests with a chain, from noise to edit where they are edits."""
    chain = chain_of(model, tokens, boxes)
    source = torch.rand(3, *size, generator=torch.Generator().manual_seed(SEED)) * 2 - 1 if edit else None
    return [Sample("a red circle beside a blue square", chain, size, source=source)] * number
