"""The small tokenizer, the appended tokens, and the file shipped with the recipes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from got_core.data.scenes.dataset import corpus
from reasoners.scenes_tokenizer import COORDINATES, PATH, train_tokenizer
from reasoners.tokenizer import QWEN_TOKENS, Vocabulary, read_tokenizer

SHIPPED = Path(__file__).parents[2] / PATH


def test_tokens_are_appended_with_the_ids_of_the_reference():
    full = Tokenizer(models.WordLevel({f"w{index}": index for index in range(151643)}, "w0"))
    full.add_special_tokens([*QWEN_TOKENS, *(f"<|later_{index}|>" for index in range(8))])
    vocabulary = Vocabulary(full, 64)
    assert (vocabulary.id("<|box_start|>"), vocabulary.id("<|box_end|>")) == (151648, 151649)
    assert (vocabulary.start, vocabulary.id("<|im_gen_end|>")) == (151665, 151666)
    assert vocabulary.image_tokens == list(range(151667, 151667 + 64))
    assert vocabulary.added == vocabulary.new == list(range(151665, 151667 + 64))


def test_tokens_that_are_there_already_are_not_new(tokenizer_file):
    tokenizer = Tokenizer.from_file(tokenizer_file)
    first = Vocabulary(tokenizer, 4)
    again = Vocabulary(tokenizer, 6)
    assert again.new == again.image_tokens[4:]
    assert again.added[:6] == first.added


def test_chains_consist_of_text_and_grounding_tokens_only(tokenizer_file):
    vocabulary = Vocabulary(Tokenizer.from_file(tokenizer_file), 4)
    writable = set(vocabulary.writable)
    assert vocabulary.id("<|box_start|>") in writable
    assert not writable & {*vocabulary.added, *vocabulary.stops, vocabulary.image_pad, vocabulary.padding}
    text = "a<|image_pad|>b<|im_gen_0001|>c<|box_start|>"
    assert vocabulary.without_controls(text) == "a b c<|box_start|>"


def test_a_tokenizer_without_qwens_tokens_is_refused():
    with pytest.raises(ValueError, match=r"lacks tokens.*<\|box_start\|>"):
        Vocabulary(Tokenizer(models.WordLevel({"a": 0}, "a")), 4)


def test_requested_numbers_stay_whole_and_control_tokens_stay_out_of_merges(tmp_path):
    path = tmp_path / "folder" / "tokenizer.json"
    tokenizer = train_tokenizer(["a<|box_start|>b"] * 50, 320, path, whole=["999", "31"])
    assert all(len(tokenizer.encode(word).ids) == 1 for word in ("999", "31", "<|box_start|>"))
    assert not any("box" in token for token in tokenizer.get_vocab(with_added_tokens=False))
    assert tokenizer.encode("(31,999)").tokens == ["(", "31", ",", "999", ")"]
    assert Tokenizer.from_file(str(path)).to_str() == tokenizer.to_str()
    with pytest.raises(ValueError, match="leave no room"):
        train_tokenizer(["a"], 271, path, whole=["999", "31"])


def test_the_shipped_file_suits_the_scenes():
    tokenizer = Tokenizer.from_file(str(SHIPPED))
    assert SHIPPED.stat().st_size < 60_000
    words = [*COORDINATES, "),(", *(f" {word}" for word in ("red", "circle", "square", "gray", "scene", "left"))]
    assert [word for word in words if len(tokenizer.encode(word).ids) != 1] == []
    for text in corpus(50, seed=5):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


ASCII = st.text(alphabet=st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]))


@given(ASCII | st.sampled_from(["né à", "红色"]))
def test_any_text_survives_the_shipped_tokenizer(text):
    tokenizer = Tokenizer.from_file(str(SHIPPED))
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("content", ["", "{", '{"model": 1}', "[" * 100_000], ids=["empty", "cut", "no model", "deep"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a readable tokenizer \("):
        read_tokenizer(tmp_path / "tokenizer.json")
