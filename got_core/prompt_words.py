"""Words of captions that are no names of things: colours, numbers, relations, and what joins and begins."""

import re

from got_core.nouns import words_of

BASIC_COLOURS = frozenset(words_of("red orange yellow green blue purple pink brown black white gray cyan"))
"""What a colour is called where nothing else can be meant."""

NUMBERS = {
    word: number
    for number, word in enumerate(words_of("one two three four five six seven eight nine ten eleven twelve"), start=1)
}

PREFIX = re.compile(
    r"^(?:please )?(?:(?:draw|paint|generate|create|make|show|render|sketch|imagine)(?: me| us)? )?"
    r"(?:(?:an?|the) (?:\w+ )?(?:photo|photograph|picture|image|drawing|painting|illustration|rendering|sketch|scene)"
    r" (?:of|with|showing|that shows) )?(?:there (?:is|are) )?"
)
"""What a caption may begin with before it names anything."""

_LINK = (
    r"(?:(?:which|that) )?(?:(?:is|are|stands?|lies?|sits?) )?"
    r"(?:(?:placed|located|positioned|standing|lying|sitting) )?"
)
RELATION_WORDS = {
    "left of": r"(?:(?:to|on|at) the )?left(?:[ -]hand)?(?: side)? of",
    "right of": r"(?:(?:to|on|at) the )?right(?:[ -]hand)?(?: side)? of",
    "above": r"(?:above|over|on top of|atop)",
    "below": r"(?:below|under|underneath|beneath)",
}
"""Wordings of each of `got_core.box_relations.RELATIONS`."""

COLOURED = re.compile(rf"^(?:an?|the) ([\w -]+?) (?:is|are) ({'|'.join(sorted(BASIC_COLOURS))})$")
"""A sentence that gives a thing its colour: "the bench is red"."""

CONTACT = re.compile("over|on top of|atop|under|underneath|beneath")
"""Relations in which two things may well touch."""

_LOOSE = r"(?:together with|along with|as well as|with|next to|beside|near)"
CUT = re.compile(
    rf"\s*(?:\b{_LINK}(?P<relation>{'|'.join(RELATION_WORDS.values())})\b|\b{_LINK}(?P<loose>{_LOOSE})\b"
    r"|(?P<plain>,? ?\band\b|,|&))\s*"
)
"""What stands between two things: a relation, a loose joint, which says little of their places, or a plain one."""

ARTICLES = frozenset(["a", "an", "the"])
STOP = frozenset(
    words_of(
        """
        a an the and or but no not without in on at of by from into onto to for as than like between among around
        through across along behind inside outside front near while who which that this these those there is are was
        were be has have had it its his her their they he she you we i my your our each every both all some many
        several few other another any
        """
    )
)
"""Words that are in no name: with one of them a sentence is more than a list."""
