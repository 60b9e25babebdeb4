"""What a weights file states: for every network the same entries, and a section for each family of bundles.

    {"network": "FiLMSwinUNETR",
     "settings": {"variant": "film", "feature_size": 48, "window_size": 7, "text_dim": 512},
     "volume": {"spacing": [1.5, 1.5, 1.5], ..., "trained_classes": ["liver", ...]},
     "provenance": {"date": "2026-11-30", ...}}

``network`` is a class of ``custom.networks`` and ``settings`` its own (``DescribedNetwork.SETTINGS``). ``volume`` is
what bundles that segment 3D organs need beside (``custom.weights.volume``).
"""

import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from types import UnionType
from typing import Any

import monai
import torch
from safetensors import SafetensorError, safe_open

import custom
from custom.networks import NETWORKS

Header = dict[str, Any]

FORMAT = "deep-film-weights-2"

#: The format before this one, which had one layer.
FORMAT_1 = "deep-film-weights-1"

#: An image encoder without a network, to start a training from.
PRETRAINED_FORMAT = "deep-film-pretrained-1"

#: What each section must hold, and of which type.
SECTIONS: Mapping[str, Mapping[str, type | UnionType]] = {
    "volume": {
        **{"class_set": str, "classes": list, "trained_classes": list, "default_prompt": str},
        **{"max_classes_per_prompt": int, "spacing": list, "roi_size": list, "intensity_window": list},
        **{"text_encoder": str | None, "text_kind": str | None, "text_dim": int},
    }
}

#: Rules of entries, wherever they stand, and whether a value of the right type keeps them.
RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("classes", "trained_classes"), ("different names", lambda names: _are_names(names))),
    "spacing": ("three positive numbers", lambda sides: _are_numbers(sides, 3) and min(sides) > 0),
    **dict.fromkeys(
        ("roi_size", "img_size"),
        ("three whole numbers from 1", lambda sides: len(sides) == 3 and all(map(_counts, sides))),
    ),
    "intensity_window": ("two rising numbers", lambda ends: _are_numbers(ends, 2) and ends[0] < ends[1]),
    **dict.fromkeys(
        ("feature_size", "window_size", "hidden_size", "num_heads", "max_classes_per_prompt"),
        ("a whole number from 1", lambda number: _counts(number)),
    ),
    "text_dim": ("a whole number from 0", lambda number: number >= 0),
}

#: Entries of sections that describe the training; all others must equal the run's.
DESCRIPTIVE = ("roi_size", "max_classes_per_prompt", "trained_classes", "class_set", "default_prompt")

#: Where an entry is set in a config, if not under its own name at the top; entries that other settings decide.
SETTING_PATHS = {
    **{key: f"network_def::{key}" for key in ("variant", "window_size", "hidden_size", "num_heads")},
    **{"text_kind": "bank::encoder::kind", "img_size": "roi_size"},
    "max_classes_per_prompt": "train::max_classes_per_prompt",
}
NOT_SETTABLE = ("classes", "intensity_window", "text_dim")


def run_provenance() -> dict[str, str]:
    """Versions, machine and date, with which every provenance begins."""
    versions = {"deep_film": custom.__version__, "monai": monai.__version__, "torch": torch.__version__}
    return versions | {"machine": platform.machine(), "date": datetime.now(UTC).date().isoformat()}


def read_header(path: str | Path) -> Header:
    """Header of a weights file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a weights file of this project, or a damaged one.
    """
    with reading(path), safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
    return parse_header(metadata, path)


def parse_header(metadata: Mapping[str, str], path: str | Path) -> Header:
    """The header from what a weights file holds beside its tensors; ValueError as ``read_header`` raises it."""
    if metadata.get("format") == PRETRAINED_FORMAT:
        raise ValueError(
            f"{path} holds a pretrained image encoder and no network to run: train with --pretrained {path} first."
        )
    if metadata.get("format") not in (FORMAT, FORMAT_1):
        raise ValueError(
            f"{path} is not a weights file of this project: format {metadata.get('format')!r}. Weights of another code "
            f"are converted first: python scripts/convert_weights.py network --source {path} --output "
            "model.safetensors."
        )
    try:
        header = json.loads(metadata["header"], parse_constant=_refuse_constant)
        provenance = json.loads(metadata["provenance"])
        if not isinstance(provenance, dict) or not isinstance(provenance.get("data") or {}, dict):
            raise TypeError("provenance and its data must be objects")
        if metadata["format"] == FORMAT_1:
            header = _from_format_1(header)
        name = header["network"]
        wrong = _wrong_entries(header["settings"], NETWORKS[name].SETTINGS) if name in NETWORKS else []
        for section in SECTIONS.keys() & header.keys():
            wrong += _wrong_entries(header[section], SECTIONS[section])
        if not wrong and (strangers := [name for name in _trained(header) if name not in header["volume"]["classes"]]):
            wrong.append(f"has trained_classes {strangers!r:.60}, which are not among its classes")
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: its header cannot be read: {error!r}.") from error
    if name not in NETWORKS:
        raise ValueError(f"{path} holds a network that this version does not have, {name!r}: install a newer one.")
    if wrong:
        raise ValueError(f"{path} is damaged or of another version: its header {'; '.join(wrong)}.")
    if expressions := [text for text in _texts(header) if text.startswith(("$", "@", "%"))]:
        raise ValueError(
            f"Texts of a weights header must be plain; {path} has {expressions[0]!r:.60}, which a config would "
            "evaluate. It was not: do not use this file."
        )
    return {**header, "provenance": provenance}


def is_weights_file(path: str | Path) -> bool:
    """Whether ``path`` is a weights file of this project, complete or not."""
    if Path(path).suffix != ".safetensors":
        return False
    try:
        with reading(path), safe_open(str(path), framework="pt") as file:
            return (file.metadata() or {}).get("format") in (FORMAT, FORMAT_1)
    except (FileNotFoundError, ValueError):
        return False


def trained_on(header: Mapping[str, Any]) -> str:
    """What weights were trained on, in words that stand beside every result; phantoms are named as such."""
    provenance = header["provenance"]
    data = provenance.get("data") or {}
    if not provenance.get("trained", True):
        return "nothing: untrained"
    if data.get("name") == "phantom":
        return "synthetic phantoms only, not patients"
    stated = str(data.get("description") or data.get("name") or "data that the weights do not name")
    return " ".join(stated.split())


def write_metadata(header: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, str]:
    """A header and its provenance as a safetensors file holds them."""
    kept = {key: value for key, value in header.items() if key != "provenance"}
    return {"format": FORMAT, "header": json.dumps(kept), "provenance": json.dumps(dict(provenance))}


def _wrong_entries(entries: Mapping[str, Any], types: Mapping[str, type | UnionType]) -> list[str]:
    wrong = [f"lacks {key}" for key in types if key not in entries]
    for key in (key for key in types if key in entries):
        if not isinstance(entries[key], types[key]) or isinstance(entries[key], bool):
            wrong.append(f"has {key} {entries[key]!r:.60}")
        elif key in RULES and not RULES[key][1](entries[key]):
            wrong.append(f"has {key} {entries[key]!r:.60}, which must be {RULES[key][0]}")
    return wrong


def _trained(header: Header) -> list[str]:
    return list(header.get("volume", {}).get("trained_classes", ()))


def _are_names(names: Sequence[Any]) -> bool:
    return 0 < len(names) == len(set(map(str, names))) and all(isinstance(name, str) and name for name in names)


def _are_numbers(numbers: Sequence[Any], count: int) -> bool:
    return len(numbers) == count and all(
        isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number) for number in numbers
    )


def _counts(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
    elif isinstance(value, str):
        yield value


def differing_settings(held: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """By name, both values of what decides whether weights of one header fit a run with another."""
    one, other = _flat(held), _flat(here)
    return {key: (one.get(key), other.get(key)) for key in {**one, **other} if one.get(key) != other.get(key)}


def mismatch(path: str | Path, differing: Mapping[str, tuple[Any, Any]]) -> ValueError:
    """The error for weights that differ from a run in what ``differing_settings`` returned, with what to change."""
    detail = "; ".join(_difference(key, *values) for key, values in differing.items())
    if "network" in differing:
        advice = "Run the bundle of that network, or give other weights"
    elif settable := {key: there for key, (there, _) in differing.items() if key not in NOT_SETTABLE}:
        values = (f"--{SETTING_PATHS.get(key, key)} {json.dumps(there)}" for key, there in settable.items())
        advice = f"Pass {' '.join(values)}, or other weights"
    elif "text_dim" in differing:
        advice = "Use the text encoder of that training (--text_model), or other weights"
    else:
        advice = "Pass the class set of that training (--class_set_file), or other weights"
    return ValueError(f"The weights {path} do not fit this run: {detail}. {advice}.")


def _difference(key: str, there: Any, here: Any) -> str:
    if key == "classes":
        pairs = enumerate(zip_longest(there or (), here or ()), start=1)
        index, (theirs, ours) = next((index, pair) for index, pair in pairs if pair[0] != pair[1])
        return f"{len(there)} classes there and {len(here)} here, the first that differs: {index}, {theirs!r}, {ours!r}"
    if key == "network":
        return f"they are of {there}, and this bundle runs {here}"
    return f"{key} is {json.dumps(there)} there and {json.dumps(here)} here"


def _flat(header: Mapping[str, Any]) -> dict[str, Any]:
    entries = (item for name in SECTIONS for item in header.get(name, {}).items())
    decisive = {key: value for key, value in entries if key not in DESCRIPTIVE}
    return {"network": header.get("network"), **decisive, **header.get("settings", {})}


def _from_format_1(header: Mapping[str, Any]) -> Header:
    """A header of one layer, in which ``variant`` named the network."""
    renamed = {"labelled": "trained_classes", "max_classes": "max_classes_per_prompt"}
    flat = {renamed.get(key, key): value for key, value in header.items()}
    networks = {"swinunetr": "SwinUNETR", "unetr": "UNETR", "universal": "UniversalSwinUNETR"}
    network = networks.get(flat["variant"], "FiLMSwinUNETR")
    settings = {key: flat[key] for key in NETWORKS[network].SETTINGS}
    volume = {key: flat[key] for key in SECTIONS["volume"] if key in flat}
    return {"network": network, "settings": settings, "volume": volume}


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Explain that a weights file is missing (FileNotFoundError) or cannot be read (ValueError)."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"There are no trained weights at {path}: train first (python -m monai.bundle run training ...), or pass "
            "--weights /path/to/model.safetensors. The demonstration's, for phantoms, are models/demo.safetensors in "
            "the bundle."
        )
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or it is cut short: {error}") from error
