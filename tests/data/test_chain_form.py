"""Chains in each form, and that training and validation get them."""

import pickle
from dataclasses import replace
from functools import partial

import pytest

from got_core.chain.parser import parse
from got_core.data.datamodule import batch_in_form, in_form, without_boxes
from got_core.data.scenes.dataset import ScenesDataset
from got_core.types import Batch, Sample


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        (
            "A plain gray scene with <|object_ref_start|>a red circle<|object_ref_end|><|box_start|>(94,188),(469,562)"
            "<|box_end|> (red) and <|object_ref_start|>a blue square<|object_ref_end|><|box_start|>(500,562),(900,962)"
            "<|box_end|> (blue).",
            "A plain gray scene with a red circle and a blue square.",
        ),
        ("a dog ((1, 2), (3, 4)) on a bench (5,6),(7,8) outside", "a dog on a bench outside"),
        ("two dogs (1,2),(3,4), (5,6),(7,8), and (9,10),(11,12) in the snow", "two dogs in the snow"),
        ("nothing but words", "nothing but words"),
        ("", ""),
    ],
)
def test_words_are_the_chain_without_boxes(chain, words):
    assert without_boxes(chain) == words


def test_the_words_of_rendered_scenes_name_the_same_objects_and_no_box():
    scenes = ScenesDataset(length=60)
    for index in range(60):
        chain = scenes.sketch(index).chain
        words = in_form(chain, "words")
        assert not parse(words).regions
        assert not any(mark in words for mark in "<|>")
        assert all(region.phrase in words for region in parse(chain).regions)
        assert in_form(chain, "whole") == chain
        assert in_form(chain, "none") == ""


def test_a_processor_gets_chains_in_a_form_also_in_a_worker():
    scenes = ScenesDataset(length=2)
    collate = pickle.loads(pickle.dumps(partial(batch_in_form, Batch.collate, "none")))
    batch = collate([scenes[0], scenes[1]])
    assert batch.chains == ("", "")
    assert batch.prompts == (scenes[0].prompt, scenes[1].prompt)


def test_problems_and_cuts_of_chains_are_counted():
    def first_ten(samples):
        batch = Batch.collate(samples)
        return replace(batch, chains=tuple(chain[:10] for chain in batch.chains))

    samples = [Sample("", chain, (8, 8), meta={"a": 1}) for chain in ("a dog", "a dog (1,2),(1,2)", "(2,1),(1,2) (1,")]
    meta = batch_in_form(first_ten, "whole", samples).meta
    assert meta == (
        {"a": 1},
        {"a": 1, "chain_problems": 1, "chains_cut": 1},
        {"a": 1, "chain_problems": 2, "chains_cut": 1},
    )
