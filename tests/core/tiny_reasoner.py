"""A reasoner small enough to read: a GRU over the bytes of prompt and chain, then over its summary tokens."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from got_core.interfaces import Reasoner
from got_core.types import Batch, Reasoning, Sample

STOP, LETTERS = 0, 96
FIRST_LETTER = 32


def process(samples: list[Sample]) -> Batch:
    return Batch.collate(samples)


class TinyReasoner(Reasoner):
    dim, num_tokens = 12, 3

    def __init__(self):
        super().__init__()
        self.processor = process
        self.letters = nn.Embedding(LETTERS, self.dim)
        self.summary = nn.Parameter(torch.randn(self.num_tokens, self.dim))
        self.gru = nn.GRU(self.dim, self.dim, batch_first=True)
        self.next = nn.Linear(self.dim, LETTERS)

    def read(self, text: str, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        codes = torch.tensor([[STOP, *(ord(letter) - FIRST_LETTER for letter in text)]])
        return self.gru(self.letters(codes), memory)

    def states(self, memory: Tensor) -> Tensor:
        return self.gru(self.summary[None], memory)[0][0]

    def summarize(self, batch: Batch, chains) -> Reasoning:
        memories = [
            self.read(chain, self.read(prompt)[1])[1] for prompt, chain in zip(batch.prompts, chains, strict=True)
        ]
        return Reasoning(torch.stack([self.states(memory) for memory in memories]), tuple(chains))

    def forward(self, batch: Batch) -> Reasoning:
        losses = []
        for prompt, chain in zip(batch.prompts, batch.chains, strict=True):
            hidden, _ = self.read(chain, self.read(prompt)[1])
            targets = torch.tensor([*(ord(letter) - FIRST_LETTER for letter in chain), STOP])
            losses.append(cross_entropy(self.next(hidden[0]), targets))
        return Reasoning(self.summarize(batch, batch.chains).states, batch.chains, torch.stack(losses).mean())

    def write(self, prompt: str, temperature: float, length: int, generator: torch.Generator | None) -> str:
        text, memory = "", self.read(prompt)[1]
        hidden, memory = self.read("", memory)
        while len(text) < length:
            logits = self.next(hidden[0, -1])
            if temperature:
                code = int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
            else:
                code = int(logits.argmax())
            if code == STOP:
                break
            text += chr(code + FIRST_LETTER)
            hidden, memory = self.gru(self.letters(torch.tensor([[code]])), memory)
        return text

    def generate(self, batch: Batch, *, temperature=0.0, max_new_tokens=1024, generator=None) -> Reasoning:
        return self.summarize(
            batch, [self.write(prompt, temperature, max_new_tokens, generator) for prompt in batch.prompts]
        )
