"""Texts and JSON of others are refused in one line."""

import pytest

from got_core.errors import check_text, parse_json


def test_json_that_cannot_be_read_is_a_value_error():
    assert parse_json('{"a": [1]}') == {"a": [1]}
    with pytest.raises(ValueError, match="nested too deeply or too large: RecursionError"):
        parse_json("[" * 100_000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\0b", "a NUL at character 1 of the text"),
        ("cut \ud83d", r"half of a character or an undecodable byte \(\\ud83d\) at character 4"),
        (b"\xff".decode(errors="surrogateescape"), r"an undecodable byte \(\\udcff\) at character 0"),
    ],
)
def test_a_text_that_nothing_can_encode_is_refused(text, message):
    assert check_text("a 😀 é\n\t") == "a 😀 é\n\t"
    with pytest.raises(ValueError, match=message):
        check_text(text)
