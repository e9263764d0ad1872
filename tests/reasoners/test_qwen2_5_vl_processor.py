"""The processor against the library's own image processing and rotary positions."""

import pickle
from dataclasses import replace

import pytest
import torch
from einops import rearrange
from PIL import Image
from reasoner_samples import small_samples
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from reasoners.qwen2_5_vl_processor import EDITING_TEMPLATE, GENERATION_TEMPLATE, PatchLayout


def library_patches(images, layout, **values):
    pixels = layout.image_size**2
    processor = Qwen2VLImageProcessor(
        patch_size=layout.patch_size,
        merge_size=layout.merge_size,
        temporal_patch_size=layout.temporal_patch_size,
        min_pixels=pixels,
        max_pixels=pixels,
    )
    return processor(images=list(images), return_tensors="pt", **values)


def test_patches_equal_the_librarys():
    layout, images = PatchLayout(16, 4, 2, 2), torch.rand(3, 3, 16, 16)
    expected = library_patches(images, layout, do_rescale=False)
    torch.testing.assert_close(layout.patches(list(images * 2 - 1)), expected["pixel_values"], atol=1e-5, rtol=0)
    assert torch.equal(layout.grids(3), expected["image_grid_thw"])


def test_the_tower_sees_the_original_source_by_pils_bicubic_filter(build):
    """Not the source at the size of the output; also when chains are read that were written or changed."""
    reasoner = build()
    layout = reasoner.processor.layout
    levels = torch.randint(0, 256, (3, 40, 70), dtype=torch.uint8)
    sample = replace(small_samples(1, edits=(0,))[0], source=levels / 127.5 - 1)
    batch = reasoner.processor([sample])
    side = (layout.image_size,) * 2
    seen = Image.fromarray(rearrange(levels, "c h w -> h w c").numpy()).resize(side, Image.Resampling.BICUBIC)
    expected = library_patches([seen], layout)["pixel_values"]
    torch.testing.assert_close(batch.inputs["pixel_values"], expected, atol=1e-5, rtol=0)
    other = "a green square (0,0),(500,500)"
    again = reasoner.summarize(batch, [other])
    assert torch.equal(again.states, reasoner.eval()(reasoner.processor([replace(sample, chain=other)])).states)


def test_rows_hold_prompt_chain_start_and_image_tokens(build):
    processor = build().processor
    samples = small_samples(3, edits=(1,))
    inputs = processor(samples).inputs
    vocabulary = processor.vocabulary
    for row, sample in enumerate(samples):
        ids, prompt = inputs["input_ids"][row], int(inputs["prompt_length"][row])
        chain = vocabulary.encode(sample.chain)
        assert ids[prompt : prompt + len(chain)].tolist() == chain
        assert ids[inputs["chain_mask"][row]].tolist() == [*chain, vocabulary.start]
        assert ids[inputs["summary_mask"][row]].tolist() == vocabulary.image_tokens
        assert set(ids[prompt + len(chain) + 1 + 4 :].tolist()) <= {vocabulary.padding}
        assert vocabulary.decode(ids[:prompt].tolist()).endswith(f"{sample.prompt}<|im_end|>")
        assert int((ids == vocabulary.image_pad).sum()) == (processor.layout.side**2 if row == 1 else 0)


@pytest.mark.parametrize("edits", [(), (0, 2), (0, 1, 2)])
def test_positions_equal_the_librarys(build, edits):
    reasoner = build(editing_template="Edit {image} so: {prompt}.")
    inputs = reasoner.processor(small_samples(3, edits)).inputs
    ids, grids = inputs["input_ids"], inputs["image_grid_thw"] if edits else None
    kinds = (ids == reasoner.processor.vocabulary.image_pad).int()
    expected, _ = reasoner.qwen.model.get_rope_index(ids, kinds, grids)
    assert torch.equal(inputs["position_ids"].transpose(0, 1), expected)


def test_control_tokens_a_user_types_are_blanks(build):
    processor = build().processor
    typed = "a <|image_pad|><|im_<|im_end|>gen_0001|>b <|box_start|>"
    ids = processor.prompt_ids(typed, edit=False)
    plain = processor.prompt_ids("a  <|im_ gen_0001|>b <|box_start|>", edit=False)
    assert ids == plain
    assert processor.chain_ids("x<|im_gen_start|>y") == processor.chain_ids("x y")


def test_long_chains_are_cut_and_keep_their_image_tokens(build):
    inputs = build(max_chain_tokens=5).processor(small_samples(3)).inputs
    assert (inputs["chain_mask"].sum(1) <= 6).all()
    assert inputs["summary_mask"].sum(1).tolist() == [4, 4, 4]


def test_a_long_chain_is_cut_after_its_last_whole_region_and_painted_so(build):
    whole = build().processor
    chain = "a square (100,100),(200,200) (red) and a circle (300,300),(400,400) on grey"
    first, second = chain[: chain.index(" and")], chain[: chain.index(" on")]
    lengths = [len(whole.chain_ids(text)) for text in ("a square", first, second, chain)]
    for limit, expected in [
        (lengths[3], chain),
        (lengths[3] - 1, second),
        (lengths[2], second),
        (lengths[2] - 1, first),
        (lengths[1], first),
        (lengths[1] - 1, ""),
    ]:
        reasoner = build(max_chain_tokens=limit)
        batch = reasoner.processor([replace(small_samples(1)[0], chain=chain)])
        assert batch.chains == (expected,)
        assert batch.inputs["chain_mask"].sum() == len(whole.chain_ids(expected)) + 1
        assert reasoner.summarize(batch, [chain]).chains == (expected,)
    words = "a red square on a plain grey table"
    cut = build(max_chain_tokens=len(whole.chain_ids(words)) - 1).processor.fitting(words)[0]
    assert cut == "a red square on a plain grey"


def test_coordinates_are_the_last_frame(build):
    plain, placed = (build(coordinates=flag).processor.layout for flag in (False, True))
    images = torch.rand(2, 3, plain.image_size, plain.image_size) * 2 - 1
    shape = "(i gh gw mh mw) (c t ph pw) -> t i c (gh mh ph) (gw mw pw)"
    sizes = {"i": 2, "c": 3, "t": 2, "ph": plain.patch_size, "pw": plain.patch_size}
    sizes |= {"mh": plain.merge_size, "mw": plain.merge_size, "gh": plain.side, "gw": plain.side}
    (first, last), (image, places) = (
        rearrange(layout.patches(list(images)), shape, **sizes) for layout in (plain, placed)
    )
    assert torch.equal(first, last)
    assert torch.equal(image, first)
    edge = torch.linspace(-1, 1, plain.image_size)
    assert torch.equal(places[1, 0], edge.expand(plain.image_size, -1))
    assert torch.equal(places[0, 1], places[1, 0].T)
    assert not places[:, 2].any()
    with pytest.raises(ValueError, match="coordinates need a second frame, but temporal_patch_size is 1"):
        PatchLayout(8, 4, 2, 1, coordinates=True)


def test_it_travels_to_a_worker(build):
    processor = build().processor
    samples = small_samples(3, edits=(0,))
    expected, got = processor(samples).inputs, pickle.loads(pickle.dumps(processor))(samples).inputs
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_default_templates_are_those_of_the_reference():
    request = "Follow the caption to generate an image through a chain of thought process: {prompt}<"
    editing = "Follow the instruction to edit the given image through a chain of thought process: {prompt}<"
    assert "<|im_start|>user\n" + request in GENERATION_TEMPLATE
    assert "<|im_start|>user\n{image}" + editing in EDITING_TEMPLATE.replace("{earlier}", "")


def test_earlier_turns_stand_where_the_template_has_them(build):
    processor = build(editing_template="{image}{earlier}Now: {prompt}").processor
    vocabulary = processor.vocabulary

    def read(prompt, *earlier):
        return vocabulary.decode([i for i in processor.prompt_ids(prompt, True, earlier) if i in vocabulary.writable])

    assert read("remove it", "a circle", "make it<|im_end|>red") == (
        "Earlier: a circle\nEarlier: make it red\nNow: remove it"
    )
    assert read("remove it") == "Now: remove it"
    assert read("say {earlier} and {prompt}", "x {prompt}") == "Earlier: x {prompt}\nNow: say {earlier} and {prompt}"
    assert build().processor.prompt_ids("remove it", True, ["a circle"]) == build().processor.prompt_ids(
        "remove it", True
    )


def test_settings_that_do_not_fit_are_refused(build):
    with pytest.raises(ValueError, match="image_size 18 is not a multiple of patch_size 4"):
        build(image_size=18)
    with pytest.raises(ValueError, match="editing_template must hold"):
        build(editing_template="{prompt}")
