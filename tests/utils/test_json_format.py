"""JSON as a person reads it, and nothing lost."""

import json
from typing import Any

import pytest

from custom.utils.json_format import format_json

CONTENT: dict[str, Any] = {
    "sizes": [96, 96, 96],
    "load": {"_target_": "LoadImaged", "keys": ["image", "label"]},
    "empty": {"list": [], "object": {}},
    "steps": [{"_target_": "A", "of": {"b": 1}}, "@padding"],
    "words": [f"word number {number}" for number in range(20)],
    "text": 'Müller\'s "µ"',
}


def test_it_is_the_same_content() -> None:
    assert json.loads(format_json(CONTENT)) == CONTENT
    assert json.loads(format_json({})) == {}


def test_what_fits_stands_on_one_line() -> None:
    lines = format_json(CONTENT).splitlines()
    assert lines[0] == "{" and lines[-1] == "}"
    assert '    "sizes": [96, 96, 96],' in lines
    assert '    "load": {"_target_": "LoadImaged", "keys": ["image", "label"]},' in lines
    assert '        {"_target_": "A", "of": {"b": 1}},' not in lines, "objects in objects are written out"
    assert sum("word number" in line for line in lines) == 4


@pytest.mark.parametrize("width", [60, 120, 160])
def test_lines_are_no_longer_than_they_may_be(width: int) -> None:
    assert max(map(len, format_json(CONTENT, width=width).splitlines())) <= width
