"""The contract kit passes the project's components and says what is wrong with broken ones."""

import pytest
import torch
from tiny_models import UNET
from tiny_reasoner import TinyReasoner
from torch import nn

from backbones.flow_dit import FlowDiT
from backbones.sdxl_unet import SDXLUNet
from got_core.diffusion.codecs import PixelCodec
from got_core.testing import check_backbone, check_guidance_encoder, check_reasoner
from got_core.types import Guidance, Reasoning, Sample
from guidance.semantic_spatial import SemanticSpatialGuidance

DIT = {"latent_channels": 4, "token_dim": 6, "width": 12, "depth": 1, "heads": 3, "patch": 2}
CODEC = PixelCodec(2)
WIDTHS = {"state_dim": 6, "token_dim": 8, "pooled_dim": 5, "spatial_channels": 12, "reference_channels": 12}
SAMPLES = [
    Sample("a red circle", "one (1,2),(30,40)", (8, 8)),
    Sample("two dogs", "two here and there", (8, 8)),
    Sample("make it blue", "three", (8, 8), source=torch.zeros(3, 8, 8)),
]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"semantic": "adaln", "spatial_channels": 3},
        {"semantic": "adaln", "pooled_dim": 5, "reference_channels": 3},
        {"semantic": "cross_attention", "spatial_channels": 4, "reference_channels": 2, "qk_norm": False},
        {"pooled_dim": 5, "spatial_channels": 4, "reference_channels": 4},
    ],
)
def test_flow_dit_keeps_the_contract(options):
    check_backbone(FlowDiT(**DIT, **options), sizes=((4, 4), (2, 8)))


def test_sdxl_unet_keeps_the_contract():
    check_backbone(SDXLUNet(config=UNET, spatial_channels=4, reference_channels=4))


@pytest.mark.parametrize(
    "options", [{}, {"palette": "words"}, {"pooled_dim": None, "spatial_channels": None}, {"reference_channels": None}]
)
def test_semantic_spatial_guidance_keeps_the_contract(options):
    check_guidance_encoder(SemanticSpatialGuidance(**{**WIDTHS, **options}), CODEC)


def test_reasoner_keeps_the_contract():
    torch.manual_seed(0)
    reasoner = TinyReasoner()
    before = {name: value.clone() for name, value in reasoner.state_dict().items()}
    check_reasoner(reasoner, SAMPLES)
    assert reasoner.training
    assert all(torch.equal(value, before[name]) for name, value in reasoner.state_dict().items())


class Guided(FlowDiT):
    """A correct backbone that the broken ones below are made from."""

    def __init__(self):
        super().__init__(**DIT, spatial_channels=3, reference_channels=3, pooled_dim=5)
        self.extra = nn.Linear(2, 2) if isinstance(self, DeadParameter) else None
        self.cached = None


class OtherShape(Guided):
    def forward(self, x_t, t, guidance):
        return super().forward(x_t, t, guidance)[:, :, :2]


class NotFinite(Guided):
    def forward(self, x_t, t, guidance):
        return super().forward(x_t, t, guidance) / 0


class MixesSamples(Guided):
    def forward(self, x_t, t, guidance):
        return super().forward(x_t - x_t.mean(dim=0), t, guidance)


class Random(Guided):
    def forward(self, x_t, t, guidance):
        return super().forward(x_t, t, guidance) + torch.rand(1)


class InPlace(Guided):
    def forward(self, x_t, t, guidance):
        return super().forward(x_t.mul_(0.5), t, guidance)


class Timeless(Guided):
    def forward(self, x_t, t, guidance):
        return super().forward(x_t, torch.zeros_like(t), guidance)


class Blind(Guided):
    """Takes spatial guidance and does nothing with it."""

    def forward(self, x_t, t, guidance):
        unused = None if guidance.spatial is None else torch.zeros_like(guidance.spatial)
        return super().forward(x_t, t, Guidance(guidance.tokens, guidance.pooled, unused, guidance.reference))


class Lenient(Guided):
    """Makes up reference guidance where there is none."""

    def forward(self, x_t, t, guidance):
        reference = x_t[:, :3] if guidance.reference is None else guidance.reference
        return super().forward(x_t, t, Guidance(guidance.tokens, guidance.pooled, guidance.spatial, reference))


class DeadParameter(Guided):
    pass


class NestedBlocks(Guided):
    def blocks(self):
        return [self.layers, *self.layers]


class StrangeBlocks(Guided):
    def blocks(self):
        return [nn.Linear(2, 2)]


class Stale(Guided):
    """Keeps what it made of its weights when it first ran."""

    def forward(self, x_t, t, guidance):
        if self.cached is None:
            self.cached = self.head.proj.bias.detach().sum()
        return super().forward(x_t, t, guidance) + self.cached


class Undeclared(Guided):
    latent_channels = property(lambda self: None, lambda self, value: None)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (OtherShape, r"turns shape \(2, 4, 4, 4\) into \(2, 4, 2, 4\)"),
        (NotFinite, "not finite"),
        (MixesSamples, "another result for a sample when others share its batch"),
        (Random, "two results for the same inputs"),
        (InPlace, "changes its inputs in place"),
        (Timeless, "does not use the time t"),
        (Blind, "does not use the spatial guidance"),
        (Lenient, "no ValueError when its reference guidance is missing"),
        (DeadParameter, "trainable parameter `extra.weight`"),
        (NestedBlocks, "overlap"),
        (StrangeBlocks, "names a Linear that is not part of StrangeBlocks"),
        (Stale, "other results after its state dict is loaded"),
        (Undeclared, "latent_channels must be a positive int, but is None"),
    ],
)
def test_broken_backbones_are_refused(broken, words):
    check_backbone(Guided(), sizes=((4, 4),))
    with pytest.raises(AssertionError, match=words):
        check_backbone(broken(), sizes=((4, 4),))


class WrongWidth(SemanticSpatialGuidance):
    def forward(self, reasoning, batch, codec):
        made = super().forward(reasoning, batch, codec)
        return Guidance(made.tokens[..., :3], made.pooled, made.spatial, made.reference)


class SharedStates(SemanticSpatialGuidance):
    def forward(self, reasoning, batch, codec):
        centred = reasoning.states - reasoning.states.mean(dim=0)
        return super().forward(Reasoning(centred, reasoning.chains), batch, codec)


class NoBoxes(SemanticSpatialGuidance):
    def forward(self, reasoning, batch, codec):
        return super().forward(Reasoning(reasoning.states, ("",) * len(batch)), batch, codec)


class NoGradient(SemanticSpatialGuidance):
    def forward(self, reasoning, batch, codec):
        return super().forward(Reasoning(reasoning.states.detach(), reasoning.chains), batch, codec)


class DropsAll(SemanticSpatialGuidance):
    def drop(self, guidance, semantic, spatial, reference):
        return super().drop(guidance, semantic, spatial | spatial.any(), reference)


class Halves(SemanticSpatialGuidance):
    def drop(self, guidance, semantic, spatial, reference):
        scale = torch.where(reference, 0.5, 1.0)[:, None, None, None]
        made = super().drop(guidance, semantic, spatial, reference & False)
        return Guidance(made.tokens, made.pooled, made.spatial, made.reference * scale)


class KeepsSemantic(SemanticSpatialGuidance):
    def drop(self, guidance, semantic, spatial, reference):
        return super().drop(guidance, semantic & False, spatial, reference)


class DropsInPlace(SemanticSpatialGuidance):
    def drop(self, guidance, semantic, spatial, reference):
        guidance.spatial[spatial] = 0
        return super().drop(guidance, semantic, spatial, reference)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (WrongWidth, r"declares tokens guidance of shape \(8,\) .* makes \(3,\)"),
        (SharedStates, "other tokens guidance for a sample when others share its batch"),
        (NoBoxes, "makes spatial guidance without the boxes of the chain"),
        (NoGradient, "no gradient flows through NoGradient to the states"),
        (DropsAll, "changes spatial guidance that its mask does not name"),
        (Halves, "applied twice changes reference once more"),
        (KeepsSemantic, "does not put a null in place of tokens guidance"),
        (DropsInPlace, "changes the guidance it is given in place"),
    ],
)
def test_broken_encoders_are_refused(broken, words):
    with pytest.raises(AssertionError, match=words):
        check_guidance_encoder(broken(**WIDTHS), CODEC)


class LocalProcessor(TinyReasoner):
    def __init__(self):
        super().__init__()
        self.processor = lambda samples: process_elsewhere(samples)


class WeightyProcessor(TinyReasoner):
    def __init__(self):
        super().__init__()
        self.processor = Weighty()


class Weighty:
    def __init__(self):
        self.network = nn.Linear(2, 2)


class NoLoss(TinyReasoner):
    def forward(self, batch):
        return Reasoning(super().forward(batch).states, batch.chains)


class DeafSummary(TinyReasoner):
    def summarize(self, batch, chains):
        return Reasoning(super().summarize(batch, [""] * len(batch)).states, tuple(chains))


class OneBehind(TinyReasoner):
    """Reads the states before the last letter it wrote."""

    def generate(self, batch, **options):
        written = super().generate(batch, **options).chains
        return Reasoning(self.summarize(batch, [chain[:-1] for chain in written]).states, written)


class Unseeded(TinyReasoner):
    def generate(self, batch, *, generator=None, **options):
        return super().generate(batch, **options)


class Centred(TinyReasoner):
    def summarize(self, batch, chains):
        states = super().summarize(batch, chains).states
        return Reasoning(states - states.mean(dim=0), tuple(chains))


def process_elsewhere(samples):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (LocalProcessor, "cannot go to the loader's workers"),
        (WeightyProcessor, "holds weights"),
        (NoLoss, "gives no chain loss"),
        (DeafSummary, "do not depend on the chain"),
        (OneBehind, "not those of summarize after the chains it wrote"),
        (Unseeded, "two chains for the same seed"),
        (Centred, "other states for a sample when others share its batch"),
    ],
)
def test_broken_reasoners_are_refused(broken, words):
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match=words):
        check_reasoner(broken(), SAMPLES)
