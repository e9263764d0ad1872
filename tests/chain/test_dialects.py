"""Coordinates beside the chain, and chains in JSON, are read by type."""

import json
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from got_core.chain.dialects import (
    DIALECTS,
    fill_coordinates,
    from_json,
    from_readable,
    read_dialect,
    write_dialect,
)
from got_core.chain.parser import PHRASE_END, PHRASE_START, Region, parse, write_region
from got_core.cli.main import main


@pytest.mark.parametrize(
    ("value", "box"),
    [
        ([120, 340, 560, 780], "(120,340),(560,780)"),
        ([[120, 340], [560.4, 780]], "(120,340),(560,780)"),
        ([[1, 2, 3, 4], [5, 6, 7, 8]], "(1,2),(3,4) (5,6),(7,8)"),
        ({"x1": 120, "y1": 340, "x2": 560, "y2": 780}, "(120,340),(560,780)"),
        ({"x2": "560", "Y1": 340, "X1": 120, "y2": 780}, "(120,340),(560,780)"),
        ({"xmin": 120, "ymin": 340, "xmax": 560, "ymax": 780}, "(120,340),(560,780)"),
        ([{"bbox_2d": [120, 340, 560, 780], "label": "dog 7"}], "(120,340),(560,780)"),
        ("(120,340),(560,780)", "(120,340),(560,780)"),
        ("120-340-560-780.", "(120,340),(560,780)"),
        ("120 - 340 - 560 - 780", "(120,340),(560,780)"),
        ("x1=120 y1=340 x2=560 y2=780", "(120,340),(560,780)"),
        ('{"x1": 120, "y1": 340, "x2": 560, "y2": 780}', "(120,340),(560,780)"),
        ("[120, 340), (560, 780]", "(120,340),(560,780)"),
        ("-5,340,560,780", "(-5,340),(560,780)"),
    ],
)
def test_a_value_of_any_type_is_read(value, box):
    for coordinates in ({"<b>": value}, json.dumps({"<b>": value})):
        assert fill_coordinates("a dog <b>.", coordinates) == f"a dog {box}."


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([0.1, 0.2, 0.9, 0.9], "'<b>' has 0.1, 0.2, 0.9, 0.9, which are fractions of width and height"),
        ([0, 0, 1, 1], "fractions"),
        ("0.1 0.2 0.9 1", "fractions"),
        ([1, 2, 3], "'<b>' has 3 numbers; a box needs 4"),
        ({"x": 1, "y": 2, "w": 3, "h": 4}, "'<b>' has x, y, w, h; a box has x1, y1, x2, y2"),
        ([1, 2, 3, None], "'<b>' has None, which is no coordinate"),
        ([1, 2, 3, True], "no coordinate"),
        ([1, 2, 3, float("nan")], "no coordinate"),
        ("", "0 numbers"),
    ],
)
def test_what_makes_no_box_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        fill_coordinates("a dog <b>.", {"<b>": value})


FAULTS = Path(__file__).parents[1] / "fixtures" / "faults"


def test_the_json_of_qwen_is_a_chain():
    text = (FAULTS / "qwen_json_chain.txt").read_text(encoding="utf-8")
    expected = (Region("a red circle", (100, 100, 400, 400)), Region("a blue square", (600, 600, 900, 900)))
    one, both = text.strip()[1:].split("}, {")[0] + "}", (text, f"```json\n{text}\n```\n")
    for written in both:
        assert parse(from_json(written)).regions == expected
        assert parse(from_readable(written)).regions == expected
    assert parse(from_json(one)).regions == expected[:1]


@pytest.mark.parametrize(
    "text",
    [
        "a dog (1,2),(3,4)", "[]", "{}", "3", "null", "", '[{"bbox_2d": [1, 2, 3], "label": "a dog"}]', '["a dog"]',
        '[{"bbox_2d": [1, 2, 3, 4]}]', '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, 7]', '{"label": "a dog"}', "[" * 9999,
    ],
)  # fmt: skip
def test_other_json_stays_as_it_is(text):
    assert from_json(text) == text


def test_brackets_as_wide_as_chinese_text_has_them_are_read():
    chain = (FAULTS / "fullwidth_chain.txt").read_text(encoding="utf-8").strip()
    assert parse(chain).regions == (Region("一个红色的圆", (100, 100, 400, 400)),)


SIZE = (1200, 1600)
"""At which each thousandth is a pixel of its own."""

WITHOUT_WORDS = [name for name, dialect in DIALECTS.items() if dialect.read is not None]
NOUNS = ("a dog", "two small cats", "the old man's hat", "a tree", "an oak bench")


@st.composite
def regions(draw):
    edges = st.lists(st.integers(0, 999), min_size=2, max_size=2, unique=True).map(sorted)
    (x1, x2), (y1, y2) = draw(edges), draw(edges)
    return Region(draw(st.sampled_from(NOUNS)), (x1, y1, x2, y2), draw(st.sampled_from([None, "red", "navy"])))


plans = st.lists(regions(), min_size=1, max_size=6)


def named(read):
    return [(region.phrase, region.box) for region in read]


@pytest.mark.parametrize("name", DIALECTS)
@settings(deadline=None)  # The first call imports a library.
@given(plan=plans)
def test_what_is_written_is_read_again(name, plan):
    """Phrases and boxes in every form, colours and the words between in those with words."""
    chain = "In a park: " + " beside ".join(map(write_region, plan)) + ", at noon."
    written = write_dialect(chain, name, size=SIZE, names=NOUNS, caption="In a park.")
    unit = "thousandths" if DIALECTS[name].unit is None else None
    read = read_dialect(written, name, unit=unit, size=SIZE, names=NOUNS)
    assert read.problems == ()
    found = parse(read.chain).regions
    assert named(found) == named(plan)
    if name in WITHOUT_WORDS:
        assert read.caption == ("In a park." if name == "ideogram" else "")
    else:
        assert found == tuple(plan)
        assert read.chain.startswith("In a park: ")
        assert read.chain.endswith(", at noon.")


@pytest.mark.parametrize("name", [name for name in DIALECTS if name not in WITHOUT_WORDS])
@pytest.mark.parametrize("unit", ["pixels", "fractions"])
@given(plan=plans)
def test_declared_units_of_chains_are_converted(name, unit, plan):
    chain = " and ".join(map(write_region, plan))
    written = write_dialect(chain, name, unit=unit, size=(64, 48))
    assume(written != write_dialect(chain, name))
    read = read_dialect(written, name, unit=unit, size=(64, 48))
    assert (parse(read.chain).regions, read.problems) == (tuple(plan), ())


def test_boxes_of_one_phrase_stay_its_own():
    chain = "with two cats (1,2),(30,40) and (50,60),(999,998)."
    for name in DIALECTS:
        read = read_dialect(
            write_dialect(chain, name, size=SIZE, names=["two cats"]), name, unit=DIALECTS[name].unit or "thousandths",
            size=SIZE, names=["two cats"],
        )  # fmt: skip
        assert named(parse(read.chain).regions) == [("two cats", (1, 2, 30, 40)), ("two cats", (50, 60, 999, 998))]


@pytest.mark.parametrize("name", DIALECTS)
def test_examples_are_read_and_stand_in_the_readme(name):
    dialect = DIALECTS[name]
    unit = "thousandths" if dialect.unit is None else None
    read = read_dialect(dialect.example, name, unit=unit, size=(1024, 1024), names=["a dog"])
    assert parse(read.chain).regions == (Region("a dog", (100, 200, 300, 400)),)
    readme = Path(__file__).parents[2] / "got_core" / "chain" / "README.md"
    assert f"| {name} | `{dialect.example}` |" in readme.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "text", "box"),
    [
        ("internvl", "<ref>dogs</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>", [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ("lists", "two dogs [[1, 2, 3, 4],[5, 6, 7, 8]].", [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ("fullwidth", "一只狗（１００，２００），（３００，４００）", [(100, 200, 300, 400)]),
        ("qwen3_vl", '```json\n[{"bbox_2d": [0, 0, 1000, 1000], "label": "all"}]\n```', [(0, 0, 999, 999)]),
        ("qwen3_vl", '{"bbox_2d": [9, 8, 1, 2], "label": "swapped"}', [(1, 2, 9, 8)]),
        ("lists", "a dog [.1e1, +2.0, 3., 4e0]", [(1, 2, 3, 4)]),
        ("got", '[{"bbox_2d": [1, 2, 3, 4], "label": "a dog"}]', [(1, 2, 3, 4)]),
        ("fullwidth", "第１只狗【１００，２００，３００，４００】", [(100, 200, 300, 400)]),
        ("bbox", '[\n {"label": "a dog", "bbox": [1, 2, 3, 4], "mask": "a.png"}\n]', [(1, 2, 3, 4)]),
        ("bbox", '{"label": "a dog", "bbox": [1, 2, 3, 4]}\n{"label": "a", "bbox": [5, 6, 7, 8]}\n',
         [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ("bbox", "[]", []),
        ("coco", '{"annotations": [], "categories": [{"id": [1], "name": "a"}]}', []),
        ("ideogram", '{"compositional_deconstruction": {"elements": [{"desc": "free"}, '
         '{"desc": "dog", "bbox": [2, 1, 4, 3]}]}}', [(1, 2, 3, 4)]),
    ],
)  # fmt: skip
def test_variants_are_read(name, text, box):
    read = read_dialect(text, name, unit="thousandths")
    assert [region.box for region in parse(read.chain).regions] == box
    assert "bbox_2d" not in read.chain


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (
            "qwen3_vl",
            '[{"bbox_2d": [1, 2, 3], "label": "a dog"}]',
            "dropped: object 1 has no four numbers as 'bbox_2d'",
        ),
        ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4]}]', "dropped: object 1 has no text as 'label'"),
        ("qwen3_vl", '[{"bbox_2d": [5, 5, 5, 9], "label": "a"}]', "dropped: object 1 ('a'): no area"),
        ("qwen3_vl", '[{"bbox_2d": [1e400, 5, 5, 9], "label": "a"}]', "dropped: object 1 has no four numbers"),
        ("qwen3_vl", '[{"bbox_2d": [-50, 5, 5, 9], "label": "a"}]', "repaired: object 1 ('a'): outside of the image"),
        ("qwen3_vl", '[{"bbox_2d": [1, 2, 3, 4], "label": "a (5,6),(7,8)"}]', "has boxes or markers among its words"),
        ("yolo", "3 0.5 0.5 0.1 0.1", "dropped: object 1 is of class 3, and 1 classes are named"),
        ("yolo", "0 half 0.5 0.1 0.1", "dropped: object 1 is no class with four numbers"),
        ("yolo", "-1 0.5 0.5 0.1 0.1", "is of class -1"),
        ("yolo", "0 nan 0.5 0.1 0.1", "no finite numbers"),
        ("yolo", "0 0.1 0.1 0.2 0.2 0.3 0.3 0.2 0.3", "is no class with four numbers: '0 0.1 0.1 0.2 0.2"),
        ("coco", '{"annotations": [{"bbox": [1, 2, 3, 4], "category_id": 7}]}', "which 'categories' does not name"),
        ("coco", '{"annotations": [{"bbox": [1, 2, 3, 4], "category_id": [7], "image_id": {}}]}', "has category [7]"),
        ("ideogram", '{"compositional_deconstruction": {"elements": [{"desc": "mist"}]}}', "('mist') has no 'bbox'"),
        ("lists", "a dog [NaN, 1, 2, 3]", "dropped: 'NaN, 1, 2, 3' are four numbers but no box"),
        ("lists", "a dog [1e400, 1, 2, 3]", "dropped: '1e400, 1, 2, 3' are four numbers but no box"),
        ("lists", "a cat [1, 2, 3, 4], a dog [5, 6", "dropped: '[5, 6' is an unfinished list"),
        ("internvl", "<ref>a dog</ref><box>[[5, 6, 7", "is an unfinished list"),
        ("plain", "a dog (.1,.2),(.3,.4)", "dropped: '.1,.2),(.3,.4' are four numbers but no box"),
        ("lists", "a dog {1, 2, 3, 4}", "dropped: '1, 2, 3, 4' are four numbers but no box"),
        ("internvl", "<ref>a dog</ref><box>[[1, 2, 3]]</box>", "dropped"),
    ],
)
def test_what_is_not_read_is_reported(name, text, problem):
    problems = read_dialect(text, name, unit="thousandths", size=SIZE, names=["a dog"]).problems
    assert any(problem in each for each in problems)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("qwen4_vl", "", "qwen4_vl is no dialect of boxes; known: got"),
        ("qwen2_5_vl", "[]", "boxes in pixels need the size of the image"),
        ("coco", "[]", "COCO's JSON has a list of 'annotations'"),
        ("coco", '{"annotations": [], "categories": 5}', "COCO's JSON has a list of 'categories'"),
        ("qwen3_vl", r'[{"bbox_2d": [1, 2, 3, 4], "label": "\ud800"}]', "half of a character"),
        ("coco", '{"annotations": [{"image_id": 1}, {"image_id": 2}]}', "of several images"),
        ("ideogram", "{}", "no 'compositional_deconstruction'"),
        ("qwen3_vl", "a dog", "Expecting value"),
        ("qwen3_vl", "[" * 100_000, "nested too deeply"),
        ("bbox", "7\n{", "Expecting property name"),
    ],
)
def test_texts_of_other_forms_are_refused(name, text, message):
    with pytest.raises(ValueError, match=message):
        read_dialect(text, name, size=SIZE if name == "coco" else None)


def test_what_a_form_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="'a dog' is none of the 1 named classes"):
        write_dialect("a dog (1,2),(3,4)", "yolo", names=["a cat"])


@pytest.mark.parametrize(
    ("name", "chain", "message"),
    [
        ("plain", "[dog on a mat](1,2),(3,4)", r"'dog on a mat' \(1, 2, 3, 4\) would be read as 'a mat'"),
        (
            "readable",
            f"{PHRASE_START}a dog [brown]{PHRASE_END}(1,2),(3,4)",
            r"'a dog \[brown\]' .* would be read as ''",
        ),
        ("internvl", f"{PHRASE_START}a </ref> dog{PHRASE_END}(1,2),(3,4)", "'a </ref> dog' .* would be read as 'dog'"),
        ("qwen2_5_vl", "a dog (1,2),(3,400)", r"'a dog' \(1, 2, 3, 400\) would be read as nothing"),
    ],
)
def test_a_chain_that_would_be_read_otherwise_is_refused(name, chain, message):
    with pytest.raises(ValueError, match=f"{name} cannot hold the chain: {message}"):
        write_dialect(from_readable(chain), name, size=(56, 56))


@pytest.mark.parametrize("name", DIALECTS)
@given(phrase=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20))
def test_any_words_are_read_again_or_refused(name, phrase):
    label = json.dumps([{"bbox_2d": [100, 200, 300, 400], "label": phrase}])
    chain = read_dialect(label, "qwen3_vl").chain
    assume(chain)
    try:
        written = write_dialect(chain, name, size=SIZE, names=[phrase.strip()])
    except ValueError as error:
        assert f"{name} cannot hold the chain" in str(error)  # noqa: PT017
    else:
        unit = "thousandths" if DIALECTS[name].unit is None else None
        read = read_dialect(written, name, unit=unit, size=SIZE, names=[phrase.strip()])
        assert parse(read.chain).regions == parse(chain).regions


@pytest.mark.parametrize("name", [name for name in DIALECTS if name not in WITHOUT_WORDS])
def test_words_between_a_phrase_and_its_box_stay(name):
    chain = f"{PHRASE_START}A dog{PHRASE_END} sits at (1,2),(3,4), near a tree in (5,6),(7,8)."
    read = read_dialect(write_dialect(chain, name), name, unit="thousandths")
    assert named(parse(read.chain).regions) == [("A dog", (1, 2, 3, 4)), ("a tree", (5, 6, 7, 8))]
    assert " sits at " in read.chain
    assert " in " in read.chain


def test_words_to_be_written_belong_to_the_phrase():
    element = {"type": "text", "text": "SALE", "desc": "a red sign", "bbox": [2, 1, 4, 3]}
    read = read_dialect(json.dumps({"compositional_deconstruction": {"elements": [element]}}), "ideogram")
    assert parse(read.chain).regions == (Region('a red sign "SALE"', (1, 2, 3, 4)),)


@pytest.mark.parametrize("unit", ["thousandths", "pixels", "fractions"])
def test_numbers_of_any_length_are_outside(unit):
    read = read_dialect(f"a dog ({'9' * 400},1),(2,3)", "plain", unit=unit, size=(500, 500))
    assert "outside 0 to 999" in read.problems[0]


def test_a_confidence_of_yolo_is_left_out():
    read = read_dialect("0 0.2 0.3 0.2 0.2 0.9", "yolo", names=["a dog"])
    assert (parse(read.chain).regions, read.problems) == ((Region("a dog", (100, 200, 300, 400)),), ())


def test_a_guess_is_a_warning():
    with pytest.warns(UserWarning, match="read as fractions, by a guess: declare their unit"):
        read = read_dialect("a dog (0.1,0.2),(0.3,0.4)", "plain")
    assert parse(read.chain).regions == (Region("a dog", (100, 200, 300, 400)),)
    with pytest.warns(UserWarning, match="read as pixels"):
        read = read_dialect("a dog (200,400),(600,1200)", "plain", size=(2000, 2000))
    assert parse(read.chain).regions == (Region("a dog", (100, 200, 300, 600)),)
    assert read_dialect("a dog (1,2),(3,4)", "plain", size=(2000, 2000)).chain == "a dog (1,2),(3,4)"


def test_pixels_of_qwen_are_those_of_the_resized_image():
    """As transformers resizes for the model, to multiples of 28."""
    read = read_dialect('[{"bbox_2d": [28, 28, 56, 84], "label": "a dog"}]', "qwen2_5_vl", size=(100, 270))
    assert parse(read.chain).regions[0].box == (100, 250, 200, 750)


def test_twenty_thousand_boxes_take_linear_time():
    text = ", ".join(f"a dog [{n % 900}, 2, {n % 900 + 9}, 40]" for n in range(20_000))
    read = read_dialect(text, "lists", unit="thousandths")
    assert len(parse(read.chain).regions) == 20_000
    assert read_dialect("1" * 100_000, "lists", unit="thousandths").problems == ()
    labels = [f"dog {number}" for number in range(5_000)]
    chain = ", ".join(f"{PHRASE_START}{label}{PHRASE_END}(1,2),(3,4)" for label in labels)
    assert write_dialect(chain, "yolo", names=labels).count("\n") == 4_999
    with pytest.raises(ValueError, match="20,001 objects are more than 20,000"):
        read_dialect("\n".join(["0 .5 .5 .1 .1"] * 20_001), "yolo", names=["a dog"])


def test_boxes_are_converted_on_the_command_line(tmp_path, capsys):
    file = tmp_path / "answer.json"
    file.write_text('[{"bbox_2d": [104, 207, 311, 414], "label": "a dog"}]')
    main(["chain", "convert", str(file), "--from", "qwen2_5_vl", "--to", "internvl", "--size", "1024x1024"])
    assert capsys.readouterr().out == "<ref>a dog</ref><box>[[100, 200, 300, 400]]</box>\n"
    file.write_text('[{"bbox_2d": [104, 207, 311, 414], "label": "a dog"}, 7]')
    with pytest.raises(SystemExit) as caught:
        main(
            ["chain", "convert", str(file), "--from", "qwen2_5_vl", "--to", "got", "--size", "1024x1024", "--output",
             str(tmp_path / "chain.txt")]
        )  # fmt: skip
    assert caught.value.code == 1
    assert capsys.readouterr().err == "dropped: object 2 is no JSON object\n"
    assert parse((tmp_path / "chain.txt").read_text()).regions == (Region("a dog", (100, 200, 300, 400)),)
    for words, message in (
        (["--from", "qwen2_5_vl", "--to", "got"], "boxes in pixels need the size of the image"),
        (["--from", "qwen2_vl", "--to", "got"], "qwen2_vl is no dialect of boxes"),
        (["--to", "got"], "required: from"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["chain", "convert", str(file), *words])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
