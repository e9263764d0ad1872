"""A small tokenizer and small reasoners for the tests of this folder."""

import random

import pytest
import torch
from reasoner_samples import small_chain, small_samples

from reasoners.qwen2_5_vl import Qwen2_5_VLReasoner
from reasoners.scenes_tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    rng = random.Random(0)
    texts = [small_chain(rng, 2) for _ in range(200)] + [sample.prompt for sample in small_samples(3)]
    train_tokenizer(texts, 400, path)
    return str(path)


@pytest.fixture
def build(tokenizer_file):
    """A function that builds a small reasoner under a seed; values given replace the small ones."""

    def make(tied: bool = True, **values) -> Qwen2_5_VLReasoner:
        torch.manual_seed(0)
        text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 4}
        small = {
            "text_config": {**text, "initializer_range": 0.2},
            "vision_config": {**vision, "window_size": 16, "fullatt_block_indexes": [1], "initializer_range": 0.2},
            "tie_word_embeddings": tied,
        }
        defaults = {"config": small, "tokenizer": tokenizer_file, "num_tokens": 4, "image_size": 16, "tune": "full"}
        short = {
            "generation_template": "<|im_start|>{prompt}<|im_end|>",
            "editing_template": "<|im_start|>{image}{prompt}<|im_end|>",
        }
        return Qwen2_5_VLReasoner(**{**defaults, **short, **values})

    return make
