"""Contracts of objectives, codecs, datasets and of how reasoners are called: sound ones pass, broken ones fail."""

from dataclasses import replace

import pytest
import torch
from tiny_models import KL, TINY_AUTOENCODER
from tiny_reasoner import TinyReasoner, process
from torch.utils.data import Dataset

from got_core.data.scenes.dataset import ScenesDataset
from got_core.diffusion.codecs import AutoencoderCodec, PixelCodec
from got_core.diffusion.objectives import EpsilonDiffusion, RectifiedFlow
from got_core.testing import check_codec, check_dataset, check_objective, check_reasoner
from got_core.training.codec_training import BoxCanvasDataset
from got_core.types import Reasoning, Sample

SAMPLES = [
    Sample("a red circle", "one (1,2),(30,40)", (8, 8)),
    Sample("make it blue", "three and four", (8, 8), source=torch.zeros(3, 8, 8)),
]


@pytest.mark.parametrize(
    "objective",
    [
        EpsilonDiffusion(),
        EpsilonDiffusion(noise_offset=0.1),
        EpsilonDiffusion(prediction="v_prediction"),
        EpsilonDiffusion(schedule="squaredcos_cap_v2", prediction="v_prediction"),
        RectifiedFlow(),
        RectifiedFlow(timesteps="uniform", shift=3.0),
    ],
)
def test_objectives_keep_the_contract(objective):
    check_objective(objective)


class Backwards(RectifiedFlow):
    def corrupt(self, x0, noise, t):
        return super().corrupt(noise, x0, t)


class Loud(RectifiedFlow):
    def corrupt(self, x0, noise, t):
        return super().corrupt(x0, noise + torch.randn_like(noise), t)


class Scaled(RectifiedFlow):
    def sample_t(self, batch_size, device, generator=None):
        return super().sample_t(batch_size, device, generator) * 2


class OneLoss(RectifiedFlow):
    def loss(self, predict, x0, noise, t):
        return super().loss(predict, x0, noise, t).mean()[None]


class OtherScheduler(RectifiedFlow):
    def scheduler(self):
        return EpsilonDiffusion().scheduler()


class OneScheduler(RectifiedFlow):
    def __init__(self):
        super().__init__()
        self.made = super().scheduler()

    def scheduler(self):
        return self.made


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Backwards, "adds less noise at a later time"),
        (Loud, "gives two results for the same inputs"),
        (Scaled, "times outside 0 to 1000"),
        (OneLoss, "not one loss for each sample"),
        (OtherScheduler, "does not sample what it trains"),
        (OneScheduler, "must be a new one"),
    ],
)
def test_broken_objectives_are_refused(broken, words):
    with pytest.raises(AssertionError, match=words):
        check_objective(broken())


@pytest.mark.parametrize(
    "codec",
    [
        lambda: PixelCodec(4, mean=0.1, std=0.5),
        lambda: PixelCodec(1),
        lambda: AutoencoderCodec(config={**KL, "scaling_factor": 0.5, "shift_factor": 0.1}),
        lambda: AutoencoderCodec(config=TINY_AUTOENCODER, model_class="AutoencoderTiny", std=[1.0, 2.0, 3.0, 4.0, 5.0]),
    ],
)
def test_codecs_keep_the_contract(codec):
    check_codec(codec())


class Trained(PixelCodec):
    def __init__(self):
        super().__init__(4)
        self.weight = torch.nn.Parameter(torch.ones(1))


class Wakes(PixelCodec):
    def train(self, mode=True):
        return torch.nn.Module.train(self, mode)


class Noisy(PixelCodec):
    def encode(self, images, scaled=True):
        latents = super().encode(images, scaled)
        return latents + 0.1 * torch.randn_like(latents)


class Mixes(PixelCodec):
    def decode(self, latents):
        return super().decode(latents - latents.mean(dim=0))


class Squares(PixelCodec):
    def encode(self, images, scaled=True):
        latents = super().encode(images, scaled)
        return latents if scaled else latents**3


class Halves(PixelCodec):
    def decode(self, latents):
        return super().decode(latents)[..., ::2]


class Crops(PixelCodec):
    def encode(self, images, scaled=True):
        height, width = (side // self.downsample * self.downsample for side in images.shape[-2:])
        return super().encode(images[..., :height, :width], scaled)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Trained, "weight would be trained"),
        (lambda: Wakes(4), "does not stay in evaluation mode"),
        (lambda: Noisy(4), "encode gives two results for the same inputs"),
        (lambda: Mixes(4), "decode gives another result for a sample"),
        (lambda: Squares(4), "are not scaled ones times a number"),
        (lambda: Halves(4), "decode turns shape"),
        (lambda: Crops(4), "no ValueError for images that do not divide"),
    ],
)
def test_broken_codecs_are_refused(broken, words):
    with pytest.raises(AssertionError, match=words):
        check_codec(broken())


def test_datasets_keep_the_contract():
    check_dataset(ScenesDataset(length=64))
    check_dataset(ScenesDataset(length=64), indices=[63, 5])


class Numbers(Dataset):
    """Samples that a change is made to."""

    def __init__(self, length=2, **changes):
        self.length, self.changes = length, changes

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        sample = Sample(f"number {index}", "a dog (10,10),(500,500)", (4, 4), target=torch.zeros(3, 4, 4))
        return replace(sample, **self.changes)


class Chancy(Numbers):
    def __getitem__(self, index):
        return replace(super().__getitem__(index), target=torch.rand(3, 4, 4))


class Batches(Numbers):
    def __getitem__(self, index):
        return [super().__getitem__(index)]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Numbers(0), "is empty"),
        (Numbers(prompt=" "), "has no prompt"),
        (Numbers(chain=""), "has no chain"),
        (Numbers(chain="a dog (10,10),(5000,500)"), "a chain with problems: .*outside"),
        (Numbers(target=None), "has no target image"),
        (Numbers(target=torch.zeros(3, 4, 8)), r"has a target \(3, 4, 8\)"),
        (Numbers(source=torch.full((3, 4, 4), 255.0)), "a source with values from 255 to 255"),
        (Chancy(), "another sample each time"),
        (Batches(), "is a list, not a Sample"),
    ],
)
def test_broken_datasets_are_refused(broken, words):
    check_dataset(Numbers())
    with pytest.raises(AssertionError, match=words):
        check_dataset(broken)


def test_a_dataset_that_cannot_be_pickled_is_told_so():
    dataset = Numbers()
    dataset.made_here = lambda: None
    with pytest.raises(AssertionError, match="cannot go to the loader's workers"):
        check_dataset(dataset)


def test_box_masks_have_no_chains_and_are_refused():
    with pytest.raises(AssertionError, match="has no"):
        check_dataset(BoxCanvasDataset(length=4))


class Deaf(TinyReasoner):
    def generate(self, batch, *, listener=None, **options):
        return super().generate(batch, **options)


class OneGenerator(TinyReasoner):
    """Takes the first sample's generator for all."""

    def generate(self, batch, *, generator=None, **options):
        first = generator[0] if isinstance(generator, list) else generator
        return super().generate(batch, generator=first, **options)


class Unshaped(TinyReasoner):
    def forward(self, batch):
        made = super().forward(batch)
        scale = 1.0 if float(made.states.detach().sum()) < 1e9 else 2.0
        return Reasoning(made.states * scale, made.chains, made.loss)


class Certain(TinyReasoner):
    question_processor = staticmethod(process)

    def likelihood(self, batch):
        return torch.ones(len(batch)), torch.ones(len(batch), dtype=torch.long)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Deaf, "calls no listener"),
        (OneGenerator, "from a sample's own generator when others share its batch"),
        (Unshaped, "cannot be run on the meta device"),
        (Certain, "likelihood is not a finite number below 0"),
    ],
)
def test_reasoners_are_called_as_systems_call_them(broken, words):
    torch.manual_seed(0)
    check_reasoner(TinyReasoner(), SAMPLES)
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match=words):
        check_reasoner(broken(), SAMPLES)


def test_a_reasoner_without_likelihood_says_so():
    reasoner = TinyReasoner()
    assert reasoner.question_processor is None
    with pytest.raises(NotImplementedError, match="TinyReasoner does not say how likely a text is"):
        reasoner.likelihood(process(SAMPLES))
