"""A table of prompts and their structures, a part of it written before the resolver by someone who had not seen it."""

import json
from pathlib import Path
from typing import Any

import pytest

from custom.anatomy.loading import load_class_set
from custom.prompts.grammar import PromptError
from custom.prompts.resolve import resolve_prompt

CT = load_class_set()
TABLE: dict[str, list[dict[str, Any]]] = json.loads(Path(__file__).with_name("prompt_table.json").read_text("utf-8"))
ROWS = [row for rows in TABLE.values() for row in rows]
SETS = {
    "*organs": "all organs",
    "*abdominal": "abdominal organs",
    "*everything": "everything",
    "*tumors": "all tumors",
    "*lesions": "all lesions",
}


def titles(written: list[str]) -> set[str]:
    """Return the titles of a row: "*organs" stands for its members, "-liver" removes one."""
    found: set[str] = set()
    for title in written:
        if title in SETS:
            found |= {CT[index].name for index in CT.groups[SETS[title]]}
        elif title.startswith("-"):
            found.remove(title[1:])
        else:
            found.add(title)
    return found


@pytest.mark.parametrize("row", [pytest.param(row, id=row["prompt"][:40]) for row in ROWS if "structures" in row])
def test_understood(row: dict[str, Any]) -> None:
    understood = resolve_prompt(row["prompt"], CT).titles(CT)
    assert len(set(understood)) == len(understood)
    assert set(understood) == titles(row["structures"])


@pytest.mark.parametrize("row", [pytest.param(row, id=row["prompt"][:40]) for row in ROWS if "refused" in row])
def test_refused_in_its_own_words(row: dict[str, Any]) -> None:
    with pytest.raises(PromptError) as error:
        resolve_prompt(row["prompt"], CT)
    assert row["refused"][:40].casefold() in str(error.value).casefold()


def test_the_table_is_large_and_has_no_duplicates() -> None:
    assert len(TABLE["written_before"]) >= 150 and len(TABLE["written_after"]) >= 70 and len(ROWS) >= 220
    assert len({row["prompt"] for row in ROWS}) == len(ROWS)
