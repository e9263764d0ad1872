import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from got_core.chain.edits import add, move, recolour, remove, replace, resize
from got_core.chain.parser import Region, format_chain, parse, write_region

CIRCLE = Region("a red circle", (94, 188, 469, 562), "red")
SQUARE = Region("a blue square", (500, 100, 900, 500), "blue")
SCENE = f"A plain gray scene with {write_region(CIRCLE)} and {write_region(SQUARE)}."
GOT_R1 = "See <|obj_start|>a red dog<|obj_end|> <|box_start|>(1,2),(3,4)<|box_end|> run."
RELEASED = "A red dog <|box_start|>(1,2),(3,4)<|box_end|> (red) near a cat <|box_start|>(5,6),(7,8)<|box_end|> (blue)."
BARE = (
    "A brown dog (1, 2), (3, 4), an orange cat **(5,6),(7,8)** and two red birds ((1, 2), (3, 4)) and ((5, 6), (7, 8))."
)
STEPS = "1. Object: the red circle (1,2),(3,4).\n2. Area: <|box_start|>(1,2),(3,4)<|box_end|> (gray)\n3. Done."
TEXTS = (SCENE, GOT_R1, RELEASED, BARE, STEPS)


def test_move_changes_the_numbers_alone():
    assert move(parse(SCENE), 1, dx=-500, dy=499).text == SCENE.replace("(500,100),(900,500)", "(0,599),(400,999)")
    assert move(parse(BARE), 0, to=(996, 0)).text == BARE.replace("(1, 2), (3, 4),", "(996, 0), (998, 2),")
    assert move(parse(BARE), 3, dx=1).text == BARE.replace("((5, 6), (7, 8))", "((6, 6), (8, 8))")


def test_resize_changes_the_numbers_alone():
    assert resize(parse(RELEASED), 1, [0, 1, 998, 999]).text == RELEASED.replace("(5,6),(7,8)", "(0,1),(998,999)")


def test_replace_changes_the_phrase_and_lets_the_colour_follow():
    text = SCENE.replace("a red circle", "a green star").replace("(red)", "(green)")
    assert replace(parse(SCENE), 0, " a green star ").text == text
    assert replace(parse(SCENE), 0, "a big star").text == SCENE.replace("a red circle", "a big star")
    assert replace(parse(GOT_R1), 0, "a green cow").text == GOT_R1.replace("a red dog", "a green cow")
    assert replace(parse(STEPS), 0, "the star").text == STEPS.replace("the red circle", "the star")


def test_a_bare_phrase_that_would_read_otherwise_is_marked():
    edited = replace(parse(BARE), 0, "a dog with a hat")
    assert edited.text == BARE.replace("A brown dog", "<|object_ref_start|>a dog with a hat<|object_ref_end|>")
    assert edited.regions[0].phrase == "a dog with a hat"


def test_a_shared_phrase_is_kept_by_the_other_box():
    assert replace(parse(BARE), 2, "a cow").text.endswith("a cow ((1, 2), (3, 4)) and two red birds ((5, 6), (7, 8)).")
    assert replace(parse(BARE), 3, "a cow").text.endswith("two red birds ((1, 2), (3, 4)) and a cow ((5, 6), (7, 8)).")
    assert remove(parse(BARE), 2).text.endswith("**(5,6),(7,8)** and two red birds ((5, 6), (7, 8)).")
    assert remove(parse(BARE), 3).text.endswith("and two red birds ((1, 2), (3, 4)).")


def test_recolour_changes_the_word_and_the_colour_after_the_box():
    assert recolour(parse(SCENE), 0, "Orange").text == SCENE.replace("a red", "an orange").replace("(red)", "(orange)")
    assert recolour(parse(BARE), 1, "pink").text == BARE.replace("an orange", "a pink")
    assert recolour(parse(GOT_R1), 0, "tan").text == GOT_R1.replace("red", "tan")
    assert recolour(parse(STEPS), 1, "white").text == STEPS.replace("gray", "white")
    plain = parse("A Light Blue car (1,2),(3,4) and a dog (5,6),(7,8).")
    assert recolour(recolour(plain, 0, "azure"), 1, "red").text == (
        "An azure car (1,2),(3,4) and a dog (5,6),(7,8) (red)."
    )


@pytest.mark.parametrize(
    ("text", "index", "left"),
    [
        (SCENE, 0, f"A plain gray scene with {write_region(SQUARE)}."),
        (SCENE, 1, f"A plain gray scene with {write_region(CIRCLE)}."),
        (GOT_R1, 0, "See run."),
        (RELEASED, 1, "A red dog <|box_start|>(1,2),(3,4)<|box_end|> (red)."),
        (STEPS, 1, STEPS[: STEPS.index("Area")].rstrip() + "\n3. Done."),
        ("A dog (1,2),(3,4), a cat (1,2),(3,4) and a cow (1,2),(3,4).", 0, "a cat (1,2),(3,4) and a cow (1,2),(3,4)."),
        ("A dog (1,2),(3,4), a cat (1,2),(3,4) and a cow (1,2),(3,4).", 1, "A dog (1,2),(3,4) and a cow (1,2),(3,4)."),
        ("A dog (1,2),(3,4), a cat (1,2),(3,4), and a cow (1,2),(3,4).", 2, "A dog (1,2),(3,4), a cat (1,2),(3,4)."),
        ("Empty space next to a dog (1,2),(3,4).", 0, "Empty space."),
        ("a dog (1,2),(3,4)", 0, ""),
    ],
)
def test_remove_leaves_readable_text(text, index, left):
    assert remove(parse(text), index).text == left


def test_remove_keeps_the_next_phrase_as_it_was():
    text = "seen dogs <|obj_start|>a cat<|obj_end|> (1,2),(3,4) old birds (5,6),(7,8)"
    assert remove(parse(text), 0).text == ("seen dogs <|object_ref_start|>old birds<|object_ref_end|> (5,6),(7,8)")


def test_add_writes_in_the_form_of_the_chain():
    star = ("a green star", (1, 2, 30, 40))
    ours = write_region(Region(*star, "green"))
    assert add(parse(SCENE), *star).text == f"{SCENE[:-1]} and {ours}."
    assert add(parse(GOT_R1), *star).text == GOT_R1.replace(
        " run", " and <|obj_start|>a green star<|obj_end|> <|box_start|>(1,2),(30,40)<|box_end|> run"
    )
    assert add(parse(RELEASED), *star, colour="red").text == (
        RELEASED[:-1] + " and a green star <|box_start|>(1,2),(30,40)<|box_end|> (red)."
    )
    assert add(parse(BARE), *star).text == BARE[:-1] + " and a green star ((1, 2), (30, 40))."
    assert add(parse("A plain scene."), *star).text == f"A plain scene with {ours}."
    assert add(parse(""), "a star", (1, 2, 3, 4)).text == write_region(Region("a star", (1, 2, 3, 4)))


def test_edits_start_from_the_repaired_text():
    chain = parse("a dog (9,8),(3,4) and a cat <|box_start|>(5,6),(7,1500)")
    edited = move(chain, 0, dx=1)
    assert edited.text == "a dog (4,4),(10,8) and a cat <|box_start|>(5,6),(7,999)<|box_end|>"
    assert edited.problems == ()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda chain: move(chain, 2, dx=1), "no region 2: it has 2, 0 to 1"),
        (lambda chain: remove(chain, -1), "no region -1: it has 2, 0 to 1"),
        (lambda chain: recolour(parse(""), 0, "red"), "no region 0: it has none"),
        (lambda chain: move(chain, 0, dx=-95), "cannot move by dx -95: -94 to 530 fit"),
        (lambda chain: move(chain, 0, to=(0, 700)), "cannot move by dy 512: -188 to 437 fit"),
        (lambda chain: resize(chain, 0, (0, 0, 1000, 10)), r"box \(0, 0, 1000, 10\) must be integers .* from 0 to 999"),
        (lambda chain: resize(chain, 0, (5, 0, 5, 10)), "x1 < x2"),
        (lambda chain: add(chain, "a dog", (0, 1, 2)), r"box \(0, 1, 2\) must be integers"),
        (lambda chain: add(chain, "a dog", (0, 1, 2, 3), "reddish"), "'reddish' is not a CSS colour name"),
        (lambda chain: recolour(chain, 0, ""), "'' is not a CSS colour name"),
        (lambda chain: replace(chain, 0, "  "), "phrase '  ' must have words"),
        (lambda chain: replace(chain, 0, "a dog (1,2),(3,4)"), "neither a box nor one of the chain's markers"),
        (lambda chain: add(chain, "a <|box_start|>", (0, 1, 2, 3)), "neither a box nor"),
    ],
)
def test_what_cannot_be_done_says_what_can(edit, message):
    with pytest.raises(ValueError, match=message):
        edit(parse(SCENE))


phrases = st.text(st.characters(codec="utf-8", exclude_characters="<("), min_size=1).filter(str.strip)
corners = st.lists(st.integers(0, 999), min_size=2, max_size=2, unique=True).map(sorted)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(TEXTS), st.data(), phrases, corners, corners)
def test_any_phrase_and_box_read_back_in_every_form(text, data, phrase, xs, ys):
    chain = parse(text)
    index = data.draw(st.integers(0, len(chain.regions) - 1))
    box = (xs[0], ys[0], xs[1], ys[1])
    others = [region for i, region in enumerate(chain.regions) if i != index]
    edited = resize(replace(chain, index, phrase), index, box)
    assert (edited.regions[index].phrase, edited.regions[index].box) == (phrase.strip(), box)
    assert [region for i, region in enumerate(edited.regions) if i != index] == others
    assert list(remove(edited, index).regions) == others
    added = add(edited, phrase, box, "navy")
    assert added.regions == (*edited.regions, Region(phrase.strip(), box, "navy"))
    assert list(remove(remove(added, len(chain.regions)), index).regions) == others
    assert added.problems == ()
    assert format_chain(added) == added.text
