"""The requirements of a caption, compared with prompts written here and with the content of the scenes' prompts."""

from collections import Counter

import pytest

from got_core.data.scenes.dataset import ScenesDataset
from got_core.data.scenes.render import COLOURS, SHAPES
from got_core.data.scenes.requests import GENERATION_TAGS
from got_core.planning.prompts import name_of, names_in, read_prompt


def objects(prompt):
    return [(spec.words, spec.colour, spec.count) for spec in read_prompt(prompt).objects]


def relations(prompt):
    return [(spec.first, spec.relation, spec.second) for spec in read_prompt(prompt).relations]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a photo of a bench", [("a bench", None, 1)]),
        ("Draw a red circle.", [("a red circle", "red", 1)]),
        ("an image of an orange", [("an orange", None, 1)]),
        ("a photo of an orange orange", [("an orange orange", "orange", 1)]),
        ("a photo of three wine glasses", [("three wine glasses", None, 3)]),
        ("there are 4 grey mice", [("4 gray mice", "gray", 4)]),
        ("dogs", [("dogs", None, 1)]),
        (
            "a red circle, two blue squares, and a small green star",
            [("a red circle", "red", 1), ("two blue squares", "blue", 2), ("a small green star", "green", 1)],
        ),
        ("a dog with a hat", [("a dog", None, 1), ("a hat", None, 1)]),
        ("a circle. The circle is red.", [("a circle", "red", 1)]),
        ("a cat. The red cat is left of the dog", [("a cat", "red", 1), ("the dog", None, 1)]),
    ],
)
def test_objects_colours_and_counts(prompt, expected):
    assert objects(prompt) == expected
    assert read_prompt(prompt).complete


@pytest.mark.parametrize(
    ("words", "relation"),
    [
        ("left of", "left of"),
        ("to the left of", "left of"),
        ("on the left side of", "left of"),
        ("is standing on the left-hand side of", "left of"),
        ("at the right of", "right of"),
        ("which is right of", "right of"),
        ("above", "above"),
        ("is placed over", "above"),
        ("sitting on top of", "above"),
        ("below", "below"),
        ("underneath", "below"),
        ("lies beneath", "below"),
        ("under", "below"),
    ],
)
def test_relations_in_all_usual_wordings(words, relation):
    assert relations(f"a photo of a dog {words} a bench") == [(0, relation, 1)]


def test_relations_have_the_right_objects():
    assert relations("a dog left of a bench and above a cat") == [(0, "left of", 1), (0, "above", 2)]
    assert relations("a dog and a cat above a bench") == [(1, "above", 2)]
    assert relations("to the left of a dog, a cat") == [(0, "left of", 1)]
    assert objects("to the left of a dog, a cat")[0][0] == "a cat"
    assert relations("a dog left of a bench. A cat below the bench") == [(0, "left of", 1), (2, "below", 1)]
    assert read_prompt("a cat on top of a couch").may_touch
    assert not read_prompt("a cat above a couch").may_touch


def test_objects_that_belong_together_may_touch():
    def may_touch(prompt):
        return sorted(sorted(pair) for pair in read_prompt(prompt).may_touch)

    assert may_touch("a knight with a sword and a shield") == [[0, 1], [0, 2]]
    assert may_touch("a dog and a cat with a hat") == [[1, 2]]
    assert may_touch("a dog and a cat") == []


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a city at night",
        "a dog chases a cat",
        "a black and white cat",
        "a cup of coffee",
        "mountain lake, sunset, trending on artstation",
        "a room without a dog",
        "a cat sleeping",
        "it is raining cats and dogs",
        "a golden retriever running through a meadow with a frisbee in its mouth",
        "two dogs between three cats",
        "a bear costume",
        'a sign that says "a red circle"',
    ],
)
def test_sentences_that_are_not_understood_require_nothing(prompt):
    required = read_prompt(prompt)
    assert not required.objects
    assert not required.complete


def test_a_sentence_that_is_not_understood_leaves_the_others():
    required = read_prompt("A red car left of a truck. It is raining. The truck is blue.")
    assert [spec.colour for spec in required.objects] == ["red", "blue"]
    assert not required.complete


def test_only_sure_objects_are_certain():
    def certain(prompt):
        return [spec.certain for spec in read_prompt(prompt).objects]

    assert certain("a dragon and a dog") == [False, True]
    assert certain("a red dragon") == certain("three dragons") == [True]
    assert certain("a dragon above a castle") == [True, True]


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("buses", "bus"),
        ("benchs", "bench"),
        ("knives", "knife"),
        ("knifes", "knife"),
        ("people", "man"),
        ("sheeps", "sheep"),
        ("dragonflies", "dragonfly"),
        ("wine glasses", "wine glass"),
        ("tvs", "television"),
    ],
)
def test_names_in_the_plural_and_in_other_words(plural, singular):
    assert name_of(plural.split()).means(name_of(singular.split()))
    assert not name_of(plural.split()).means(name_of(["orange"]))


def test_a_longer_name_is_not_the_shorter_one_in_it():
    assert [name.words for name in names_in("a hot dog and a dog")][1::3] == [("hot", "dog"), ("dog",)]
    assert not name_of(["hot", "dog"]).means(name_of(["dog"]))
    assert not name_of(["computer", "mouse"]).means(name_of(["computer"]))


def test_prompts_of_scenes_are_understood():
    """Objects with colours and counts, and relations, of 2,000 prompts: precision and recall are 1."""
    wide = {"shapes": tuple(SHAPES), "colours": tuple(COLOURS), "size": 64, "object_size": (0.2, 0.3), "gap": 0.06}
    for settings in ({}, {"max_objects": 4, **wide}):
        tasks = dict.fromkeys(GENERATION_TAGS, 1.0)
        scenes = ScenesDataset(length=1000, seed=3, tasks=tasks, balanced=True, **settings)
        for index in range(len(scenes)):
            sketch = scenes.sketch(index)
            assert _read(sketch.prompt) == _meant(sketch.meta["include"]), sketch.prompt


def _read(prompt):
    required = read_prompt(prompt)
    shapes = [next(shape for shape in SHAPES if spec.name.means(name_of([shape]))) for spec in required.objects]
    counts = Counter((shape, s.colour, s.count) for shape, s in zip(shapes, required.objects, strict=True))
    return counts + Counter((shapes[p.first], p.relation, shapes[p.second]) for p in required.relations)


def _meant(include):
    counts = Counter((clause["class"], clause.get("color"), clause["count"]) for clause in include)
    placed = [clause for clause in include if "position" in clause]
    return counts + Counter((c["class"], c["position"][0], include[c["position"][1]]["class"]) for c in placed)
