import random

import jaxtyping
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from got_core.chain.edits import add, move, recolour, remove, replace
from got_core.chain.parser import (
    COLOURS,
    SIDE,
    Region,
    colour_of,
    format_chain,
    parse,
    to_pixels,
    write_region,
)

QWEN = "<|object_ref_start|>{phrase}<|object_ref_end|><|box_start|>({0},{1}),({2},{3})<|box_end|>"
FORMS = {
    "qwen": QWEN,
    "scenes": QWEN + " ({colour})",
    "got_r1": "<|obj_start|>{phrase}<|obj_end|> <|box_start|>({0},{1}),({2},{3})<|box_end|>",
    "released": "{phrase} <|box_start|>({0},{1}),({2},{3})<|box_end|> ({colour})",
    "bare": "{phrase} ({0},{1}),({2},{3})",
    "bare_spaced": "{phrase} ( {0} , {1} ) ,  ({2}, {3} )",
    "stars": "{phrase} **({0},{1}),({2},{3})**",
    "double": "{phrase} (({0}, {1}), ({2}, {3}))",
    "stars_double": "{phrase}: **(({0}, {1}), ({2}, {3}))**",
    "wide": "{phrase}（{0}，{1}），（{2}， {3}）",
    "wide_double": "{phrase}（({0}, {1}), ({2}, {3})）",
}
MARKED = ("qwen", "scenes", "got_r1")
CHAINS = 10_000
LONG = 200_000

boxes = st.tuples(
    *(st.lists(st.integers(0, SIDE - 1), min_size=2, max_size=2, unique=True).map(sorted) for _ in "xy")
).map(lambda sides: (sides[0][0], sides[1][0], sides[0][1], sides[1][1]))
colours = st.sampled_from(sorted(COLOURS))
nouns = st.sampled_from(["dog", "red circle", "glass of water", "light blue car", "cat's tail", "half-timbered house"])
bare_phrases = st.builds("{} {}".format, st.sampled_from(["a", "The", "two", "her"]), nouns)
marked_phrases = (
    st.text(st.characters(codec="utf-8", exclude_characters="<(（"), min_size=1).map(str.strip).filter(bool)
)


def written(form: str, phrase: str, box: tuple[int, ...], colour: str) -> str:
    return FORMS[form].format(*box, phrase=phrase, colour=colour)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("before", ["", "A wide field. Nearby is ", "1. Object to edit: ", "on grass\n"])
def test_every_form_is_read(form, before):
    objects = [("the brown dog", (1, 20, 300, 999), "red"), ("a cat's tail", (0, 0, 999, 1), "navy")]
    text = before + ", and ".join(written(form, *each) for each in objects) + " in the sun."
    chain = parse(text)
    assert chain.problems == ()
    assert str(chain) == format_chain(chain) == text
    coloured = "{colour}" in FORMS[form]
    assert chain.regions == tuple(Region(p, b, c if coloured else None) for p, b, c in objects)
    for location, (phrase, _, _) in zip(chain.locations, objects, strict=True):
        assert text[slice(*location.phrase)] == phrase
        assert location.marked is (form in MARKED)
        assert text[location.end :].startswith((", and ", " in the sun."))


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(sorted(FORMS)), st.integers(1, 5))
def test_well_formed_chains_round_trip(data, form, count):
    phrases = marked_phrases if form in MARKED else bare_phrases
    objects = [(data.draw(phrases), data.draw(boxes), data.draw(colours)) for _ in range(count)]
    text = "A scene with " + " and ".join(written(form, *each) for each in objects) + "."
    chain = parse(text)
    colour_written = "{colour}" in FORMS[form]
    assert chain.regions == tuple(Region(p, b, c if colour_written else None) for p, b, c in objects)
    assert chain.problems == ()
    assert format_chain(chain) == text


@settings(max_examples=100, deadline=None)
@given(marked_phrases, boxes, st.none() | colours)
def test_a_written_region_reads_back(phrase, box, colour):
    region = Region(phrase, box, colour)
    assert parse(write_region(region)).regions == (region,)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("A tall man riding horses (1,2),(3,4)", "A tall man riding horses"),
        ("A tall man holding red umbrellas (1,2),(3,4)", "red umbrellas"),
        ("men riding brown horses (1,2),(3,4)", "brown horses"),
        ("to the left of a blue square (1,2),(3,4)", "a blue square"),
        ("left of blue squares (1,2),(3,4)", "blue squares"),
        ("a glass of water (1,2),(3,4)", "a glass of water"),
        ("The dog is located at (1,2),(3,4)", "The dog"),
        ("a dog on the left (1,2),(3,4)", "a dog"),
        ("the man (smiling) **(1,2),(3,4)**", "the man"),
        ("**a brown dog**: (1,2),(3,4)", "a brown dog"),
        ("The area [(1,2),(3,4)]", "The area"),
        ("dogs run. (1,2),(3,4)", ""),
        ("the woman in the red hat within the bounding box (1,2),(3,4)", "the red hat"),
        ("Remove the woman in the bounding box (1,2),(3,4)", "the woman"),
        ("the woman, in the bounding box (coordinates): (1,2),(3,4)", "the woman"),
        ("The dog located at the bounding box coordinates [(1,2),(3,4)]", "The dog"),
        ("a red hat is marked by its new bounding box with the coordinates (1,2),(3,4)", "a red hat"),
        ("the bounding box of the dog (coordinates) (1,2),(3,4)", "the dog"),
        ("2. The bounding box is (1,2),(3,4)", ""),
        ("a cardboard box (1,2),(3,4)", "a cardboard box"),
        ("a dog (brown (dark)) (1,2),(3,4)", "a dog"),
        ("a dog [brown] (very (old) one) ((1,2),(3,4))", "a dog"),
        ("brown) (1,2),(3,4)", ""),
        ("Remove (1,2),(3,4)", ""),
        ("(1,2),(3,4)", ""),
        ("one two three four five six seven eight nine words end (1,2),(3,4)", "nine words end"),
        ("w1 w2 w3 w4 w5 w6 w7 w8 w9 (1,2),(3,4)", "w2 w3 w4 w5 w6 w7 w8 w9"),
    ],
)
def test_the_phrase_before_a_bare_box(text, phrase):
    assert [region.phrase for region in parse(text).regions] == [phrase]


def test_a_box_without_words_belongs_to_the_phrase_before_it():
    text = "two dogs (1,2),(3,4) and (5,6),(7,8), <|obj_start|>a cat<|obj_end|> is at (1,1),(2,2). (3,3),(4,4)"
    assert [region.phrase for region in parse(text).regions] == ["two dogs", "two dogs", "a cat", ""]


def test_only_css_names_count_as_colours():
    text = "a dog (1,2),(3,4) (Red), a cat (1,2),(3,4) (fluffy), a car (1,2),(3,4) (), a hat (1,2),(3,4)\n(blue)"
    assert [region.colour for region in parse(text).regions] == ["red", None, None, None]


@pytest.mark.parametrize(
    ("phrase", "written_colour", "colour"),
    [
        ("a red circle", "gray", "gray"),
        ("a red and blue flag", None, "red"),
        ("a Light Blue car", None, "lightblue"),
        ("a reddish dog", None, None),
    ],
)
def test_colour_of(phrase, written_colour, colour):
    assert colour_of(Region(phrase, (0, 0, 1, 1), written_colour)) == colour


@pytest.mark.parametrize(
    ("text", "repaired", "reason"),
    [
        ("a dog (9, 8), (3, 4) runs", "a dog (3, 4), (9, 8) runs", "corners swapped"),
        ("a dog **(-5,0),(1000,99999999999999999999)**", "a dog **(0,0),(999,999)**", "outside 0 to 999"),
        ("a dog (0,1000),(10,20) runs", "a dog (0,20),(10,999) runs", "outside 0 to 999; corners swapped"),
        ("a dog (0,0),(1000,999) runs", "a dog (0,0),(999,999) runs", "outside 0 to 999"),
        ("a dog (1.4,2),(3,4.0) runs", "a dog (1,2),(3,4) runs", "not whole numbers"),
        (
            "a dog <|box_start|>(1,2),(3,4) (red)",
            "a dog <|box_start|>(1,2),(3,4)<|box_end|> (red)",
            "box_end|> is miss",
        ),
        ("a dog (1,2),(3,4)<|box_end|>", "a dog <|box_start|>(1,2),(3,4)<|box_end|>", "<|box_start|> is missing"),
        ("<|obj_start|>a dog (1,2),(3,4)", "<|obj_start|>a dog<|obj_end|> (1,2),(3,4)", "closes nowhere"),
        ("see a dog<|obj_end|> (1,2),(3,4)", "see <|obj_start|>a dog<|obj_end|> (1,2),(3,4)", "opens nowhere"),
        (
            "<|obj_start|>a dog<|object_ref_end|> (1,2),(3,4)",
            "<|obj_start|>a dog<|obj_end|> (1,2),(3,4)",
            "does not fit the marker before it",
        ),
    ],
)
def test_malformed_boxes_are_repaired(text, repaired, reason):
    chain = parse(text)
    assert len(chain.problems) == 1
    assert chain.problems[0].startswith("repaired: ")
    assert reason in chain.problems[0]
    assert [region.phrase for region in chain.regions] == ["a dog"]
    assert format_chain(chain) == repaired
    assert parse(repaired).regions == chain.regions
    assert parse(repaired).problems == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a dog (5,5),(5,9) runs", "no area"),
        ("a dog (5,9),(8,9) runs", "no area"),
        ("a dog (1200,5),(1300,9) runs", "no area"),
        ("a dog (1,2),(3", "unfinished box"),
        ("a dog (1,2), (", "unfinished box"),
        ("a dog (12", "unfinished box"),
        ("a dog (1,2),(3,x) runs", "unfinished box"),
        ("a dog <|box_start|>(1,2),(3,<|box_end|> runs", "unfinished box"),
        ("a dog <|box_start|>somewhere<|box_end|>", "has no box beside it"),
        ("a dog <|box_start|>", "has no box beside it"),
        ("a dog <|box_end|> runs", "has no box beside it"),
        ("a dog <|box_sta", "unfinished token"),
        ("<|obj_start|>a dog", "closes nowhere"),
        ("<|obj_start|>a dog<|obj_end|> ", "has no box"),
        (" <|obj_end|> runs", "closes no phrase"),
    ],
)
def test_what_cannot_be_read_is_dropped_with_a_reason(text, reason):
    chain = parse(text)
    assert chain.regions == ()
    assert len(chain.problems) == 1
    assert chain.problems[0].startswith("dropped: ")
    assert reason in chain.problems[0]
    assert format_chain(chain) == text


def test_text_without_boxes_is_left_alone():
    for text in ("", "A list (1) of (1,000) things (2, 3) and (a, b) or <|im_end|>.", "naïve – “quoted”\n\n"):
        chain = parse(text)
        assert (chain.regions, chain.problems, format_chain(chain)) == ((), (), text)


def test_boxes_in_pixels():
    assert to_pixels((94, 188, 500, 750), 32, 64) == pytest.approx((94 * 0.064, 188 * 0.032, 32, 24))


@pytest.fixture
def unchecked():
    """No checks of argument types, which would make the largest tests ten times slower; the others have them."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


PIECES = (
    *("<|box_start|>", "<|box_end|>", "<|obj_start|>", "<|obj_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *(
        "(",
        ")",
        "),(",
        "**",
        ",",
        "-",
        ".5",
        "(7,7),(7,9)",
        "9" * 30,
        "\n",
        "   ",
        " and ",
        " at ",
        "(red)",
        "é",
        "<|b",
    ),
)


def mutated(rng: random.Random) -> str:
    objects = []
    for _ in range(rng.randrange(5)):
        box = [rng.randrange(-100, 1200) if rng.random() < 0.2 else rng.randrange(SIDE) for _ in range(4)]
        phrase = rng.choice(["a red circle", "the brown dog", "two cats", "sky", ""])
        objects.append(written(rng.choice(list(FORMS)), phrase, tuple(box), rng.choice(["red", "gray", "ugly"])))
    text = "A scene with " + rng.choice([" and ", ", ", "", ". Next "]).join(objects) + "."
    for _ in range(rng.randrange(6)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.randrange(12))
        insert = rng.choice([rng.choice(PIECES), text[end : end + rng.randrange(40)], ""])
        text = text[:start] + insert + text[end:]
    return text[: rng.randrange(len(text) + 1)] if rng.random() < 0.2 else text


def check_invariants(text: str) -> None:
    chain = parse(text)
    assert chain.text == text
    assert len(chain.locations) == len(chain.regions)
    for region, location in zip(chain.regions, chain.locations, strict=True):
        x1, y1, x2, y2 = region.box
        assert 0 <= x1 < x2 < SIDE
        assert 0 <= y1 < y2 < SIDE
        assert region.colour is None or region.colour in COLOURS
        assert (
            location.start
            <= location.phrase[0]
            <= location.phrase[1]
            <= location.box[0]
            < location.box[1]
            <= location.end
        )
        assert text[slice(*location.phrase)] in ("", region.phrase)
    starts = [location.box[0] for location in chain.locations]
    assert starts == sorted(set(starts))
    assert all(problem.startswith(("repaired: ", "dropped: ")) for problem in chain.problems)
    repaired = format_chain(chain)
    again = parse(repaired)
    assert again.regions == chain.regions
    assert not any(problem.startswith("repaired") for problem in again.problems)
    assert format_chain(again) == repaired
    if not any(problem.startswith("repaired") for problem in chain.problems):
        assert repaired == text


@pytest.mark.usefixtures("unchecked")
def test_ten_thousand_random_and_mutated_chains():
    rng = random.Random(0)
    texts = [mutated(rng) for _ in range(CHAINS)]
    for text in texts:
        check_invariants(text)
    chains = [parse(text) for text in texts]
    kept = sum(len(chain.regions) for chain in chains)
    results = [problem.split(":")[0] for chain in chains for problem in chain.problems]
    assert kept > CHAINS
    assert min(results.count("repaired"), results.count("dropped")) > CHAINS // 10


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*PIECES, "(1,2),(3,4)", "1", "a dog", " "]), max_size=30).map("".join))
def test_any_pieces_in_any_order(text):
    check_invariants(text)


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text(text):
    check_invariants(text)


@pytest.mark.usefixtures("unchecked")
def test_edits_of_mutated_chains_are_exact_or_raise_an_error():
    rng = random.Random(1)
    refusals: list[str] = []
    edited = 0
    for chain in (parse(mutated(rng)) for _ in range(CHAINS // 40)):
        for i, region in enumerate(chain.regions):
            x1, y1, x2, y2 = region.box
            moved = move(chain, i, to=(0, 0))
            assert moved.regions[i] == Region(region.phrase, (0, 0, x2 - x1, y2 - y1), region.colour)
            others = (*chain.regions[:i], *chain.regions[i + 1 :])
            assert (*moved.regions[:i], *moved.regions[i + 1 :]) == others
            for edit in (
                lambda chain=chain, i=i: remove(chain, i),
                lambda chain=chain, i=i: remove(replace(chain, i, "a cat with a hat"), i),
                lambda chain=chain, i=i: remove(recolour(chain, i, "blue"), i),
                lambda chain=chain, i=i: move(add(chain, "an old elf", (1, 2, 3, 4)), i, to=(0, 0)),
            ):
                try:
                    result = edit().regions
                except ValueError as error:
                    refusals.append(str(error))
                    continue
                edited += 1
                assert result in (others, (*moved.regions, Region("an old elf", (1, 2, 3, 4))))
    assert len(refusals) < edited / 50
    assert all("too malformed to be edited" in refusal for refusal in refusals)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "piece",
    [
        *(
            "(",
            ")",
            "((",
            "( ",
            "(1",
            "(1,",
            "(1,2)",
            "(1,2),",
            "(1,2),(",
            "(1,2),(3",
            "1",
            "1.",
            "-",
            " ",
            "\n",
            "*",
            "**",
        ),
        *("** ", "<", "<|", "<|a", "<|box_start|>", "<|box_end|>", "<|box_start|> ", "<|obj_start|>", "<|obj_end|>"),
        *(
            "<|obj_start|> <|obj_end|>",
            "(1,2),(3,4)",
            "((1,2),(3,4))",
            "(1,2),(3,4) (",
            "(9,2),(3,4) (red)",
            "a (",
            "of ",
        ),
        *("<|obj_start|>a<|obj_end|>(1,2),(3,4)", "and ", "'a", "a) ", "(1,2),(3,4) and ", "(1,1),(1,1)", "ing " * 40),
    ],
)
def test_long_hostile_text_is_read_in_linear_time(piece):
    """Each would take minutes if any step were quadratic in these 200,000 characters."""
    run = piece * (LONG // 2 // len(piece))
    chain = parse("a dog <|box_start|>(1,2),(3,4)" + run + "(5,6),(7,8) (1" + run)
    assert chain.regions[0] == Region("a dog", (1, 2, 3, 4))
    assert len(format_chain(chain)) >= 2 * len(run)
