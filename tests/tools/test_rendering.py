"""Rendered bundles are their base and their overlay, nothing else."""

import json
import pydoc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from custom.tools.rendering import (
    BUNDLES,
    SHARED,
    apply_overlay,
    formatted,
    overlaid_bundles,
    render,
    written_by_hand,
)
from tests.helpers import ROOT

LONGEST_OVERLAY = 40  # lines


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value by its path; keys that are paths themselves (evaluate.json) are split."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            yield from leaves(part, (*path, *str(key).split("::")))
    else:
        yield path, value


def test_the_five_bundles_are_there() -> None:
    assert overlaid_bundles() == ["film2_swinunetr", "swinunetr", "unetr", "universal_swinunetr"]


@pytest.mark.parametrize("bundle", overlaid_bundles())
def test_nothing_is_stale_or_edited_by_hand(bundle: str) -> None:
    for name, text in render(bundle).items():
        there = (BUNDLES / bundle / name).read_text(encoding="utf-8")
        assert there == text, f"bundles/{bundle}/{name} is not what overlay.json says: edit that, run make bundles"
    rendered = {path.name for path in (BUNDLES / bundle / "configs").glob("*.json")}
    assert rendered == {Path(name).name for name in render(bundle) if name.endswith(".json")}


@pytest.mark.parametrize("bundle", overlaid_bundles())
def test_the_difference_to_the_base_is_what_the_overlay_declares(bundle: str) -> None:
    overlay = read(BUNDLES / bundle / "overlay.json")
    base = overlay.pop("base")
    for name in render(bundle):
        if name in SHARED:
            assert (BUNDLES / bundle / name).read_bytes() == (BUNDLES / base / name).read_bytes()
            continue
        before, after = (dict(leaves(read(BUNDLES / folder / name))) for folder in (base, bundle))
        changes = overlay.get(name, {})
        paths = [*changes.pop("remove", []), *(path.removeprefix("+") for path in changes)]
        declared = {tuple(path.split("::")) for path in paths}
        for path in (("name",), ("bundle_root", "name")):
            if before.get(path) == base:
                assert after[path] == bundle
                before[path] = bundle
        differing = {path for path in before.keys() | after.keys() if before.get(path, ...) != after.get(path, ...)}
        covering = {path: [d for d in declared if path[: len(d)] == d] for path in differing}
        assert not [path for path, places in covering.items() if not places]
        assert declared == {place for places in covering.values() for place in places}  # each of them changes something


@pytest.mark.parametrize("bundle", overlaid_bundles())
def test_an_overlay_is_short(bundle: str) -> None:
    lines = (BUNDLES / bundle / "overlay.json").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST_OVERLAY


def test_one_file_declares_the_network_of_both_film_bundles() -> None:
    targets = {
        read(BUNDLES / bundle / "configs" / f"{name}.json")["network_def"]["_target_"]
        for bundle in ("film_swinunetr", "film2_swinunetr")
        for name in ("train", "inference")
    }
    assert targets == {"custom.networks.FiLMSwinUNETR"}


CONFIG = {"a": 1, "b": {"c": [1, {"d": 2}]}, "z": 0}


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"a": 2}, {"a": 2, "b": {"c": [1, {"d": 2}]}, "z": 0}),
        ({"b::c": None}, {"a": 1, "b": {"c": None}, "z": 0}),
        ({"remove": ["b::c", "z"]}, {"a": 1, "b": {}}),
        ({"a": 3, "+new": 4}, {"a": 3, "new": 4, "b": {"c": [1, {"d": 2}]}, "z": 0}),
        ({"+new": 4}, {"a": 1, "b": {"c": [1, {"d": 2}]}, "z": 0, "new": 4}),
    ],
)
def test_changes(changes: dict[str, Any], result: dict[str, Any]) -> None:
    changed = apply_overlay(CONFIG, changes)
    assert changed == result
    assert list(changed) == list(result)
    assert CONFIG == {"a": 1, "b": {"c": [1, {"d": 2}]}, "z": 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": 1}, "a is 1 in the base already"),
        ({"b::x::d": 1}, "There is no b::x::d: x is missing or no object"),
        ({"b::c::1::d": 1}, "There is no b::c::1::d: c is missing or no object"),
        ({"a::d": 1}, "There is no a::d: a is missing or no object"),
        ({"promt": 1}, "promt is not in the base: to add it, write +promt"),
        ({"+z": 1}, "+z adds what is there already"),
        ({"remove": ["y"]}, "y is not"),
        ({"remove": ["b::c::0"]}, "There is no b::c::0: c is missing or no object"),
    ],
)
def test_changes_that_change_nothing_or_miss_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        apply_overlay(CONFIG, changes)


def test_a_key_that_is_a_path_is_one_key() -> None:
    config = {"validate::split": "test", "split": "test"}
    changes = {"remove": ["validate::split"], "+network_def::text_bank": None}
    assert apply_overlay(config, changes) == {"split": "test", "network_def::text_bank": None}


@pytest.mark.parametrize("base", ["mine", "nothing", None])
def test_an_overlay_names_its_base(base: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for bundle in ("film", "mine"):
        (tmp_path / bundle / "configs").mkdir(parents=True)
    (tmp_path / "mine" / "overlay.json").write_text(json.dumps({"base": base} if base else {}))
    monkeypatch.setitem(render.__globals__, "BUNDLES", tmp_path)  # MONAI Label may have unloaded "scripts"
    with pytest.raises(ValueError, match=rf"must have a base, one of film, not {base!r}"):
        render("mine")


@pytest.mark.parametrize("path", written_by_hand(), ids=lambda path: str(path.relative_to(BUNDLES)))
def test_what_is_written_by_hand_is_formatted(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == formatted(path), "run make bundles"


@pytest.mark.parametrize(("name", "most"), [("train", 380), ("inference", 230), ("evaluate", 100)])
def test_configs_stay_as_short_as_a_person_reads(name: str, most: int) -> None:
    for path in BUNDLES.glob(f"*/configs/{name}.json"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= most, f"{path.relative_to(ROOT)} has {lines} lines"


def test_at_most_twenty_settings_stand_at_the_top_of_a_training() -> None:
    for path in BUNDLES.glob("*/configs/train.json"):
        names = list(read(path))
        settings = names[names.index("bundle_root") + 1 : names.index("device")]
        assert 15 <= len(settings) <= 20, path


def test_nothing_is_addressed_by_its_position() -> None:
    for path in [*BUNDLES.glob("*/configs/*.json"), *BUNDLES.glob("*/overlay.json")]:
        assert not re.findall(r"::\d+\b", path.read_text(encoding="utf-8")), path


def test_every_component_of_ours_is_where_the_configs_say() -> None:
    texts = [path.read_text(encoding="utf-8") for path in BUNDLES.glob("*/configs/*.json")]
    names = {name for text in texts for name in re.findall(r'"(custom\.[\w.]+)"', text)}
    assert not [name for name in sorted(names) if not callable(pydoc.locate(name))]
