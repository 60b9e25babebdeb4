"""Weights of public codes under our names, which the network classes state (``DescribedNetwork.LAYOUTS``)."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch

from custom.networks import NETWORKS, DescribedNetwork
from custom.networks.described import PublicLayout
from custom.utils.files import read_safetensors
from custom.weights.io import check_finite, listing

#: Under which keys codes keep a network's state in a torch file.
WRAPPERS = ("state_dict", "net", "model")

#: How the names of Swin encoders' own integer buffers end.
INDEX = "relative_position_index"

#: All layouts, each with the network that takes it.
LAYOUTS = [(network, layout) for network in NETWORKS.values() for layout in network.LAYOUTS]
KNOWN = [layout.name for _, layout in LAYOUTS if not layout.refusal]


class PublicCheckpoint(NamedTuple):
    """A file of another code, read and renamed."""

    path: Path
    network: type[DescribedNetwork]  # which takes it
    layout: PublicLayout
    state: dict[str, torch.Tensor]  # by our names
    origin: dict[str, str]  # their name for each of ours
    dropped: dict[str, str]  # why each of their names is left out
    sizes: dict[str, Any]  # what the shapes tell (``DescribedNetwork.read_settings``)


def read_public_checkpoint(path: str | Path, family: str | None = None) -> PublicCheckpoint:
    """Read weights of a public code and give their tensors our names.

    Args:
        path: a .safetensors file, or a torch file of plain tensors (``weights_only``), possibly wrapped in one of
            ``WRAPPERS``; names may carry ``module.``.
        family: name of a layout; None finds it from the names.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, more than tensors inside or none, an unknown layout or another than ``family``,
            names that the layout does not explain, NaN, or sizes that no network of ours has.
    """
    path = Path(path)
    theirs, beside = _read_state(path)
    plain = {name: re.sub(r"^(module\.)+", "", name).replace(".mlp.fc", ".mlp.linear") for name in theirs}
    network, layout = _recognise(path, list(plain.values()))
    if family not in (None, *KNOWN):
        raise ValueError(f"family must be one of {', '.join(KNOWN)}, not {family!r}.")
    if family not in (None, layout.name):
        raise ValueError(f"{path} was said to be of family {family!r}, but its names are those of {layout.name!r}.")
    origin, dropped = _rename(path, plain, layout)
    dropped = dict.fromkeys(beside, "beside the network's state") | dropped
    state = {ours: theirs[name] for ours, name in origin.items()}
    if unfit := [
        f"{origin[o]} {t.dtype}" for o, t in state.items() if not (t.is_floating_point() or o.endswith(INDEX))
    ]:
        raise ValueError(
            f"{path} holds {len(unfit)} parameters that are no floating-point numbers: {listing(unfit)}. Give the "
            "weights before they were quantised."
        )
    check_finite({name: theirs[name] for name in origin.values()}, path)
    network.adapt(state)
    return PublicCheckpoint(path, network, layout, state, origin, dropped, _sizes(path, network, layout, state))


def _read_state(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors of a network by name, and what else the file holds beside them."""
    if not path.is_file():
        raise FileNotFoundError(f"There are no pretrained weights at {path} (--pretrained, --source).")
    try:
        if path.suffix == ".safetensors":
            return read_safetensors(path)[0], []
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle raise nearly anything
        raise ValueError(f"{path} holds more than tensors, or is damaged, and was not loaded: {error}") from error
    beside: list[str] = []
    while isinstance(content, dict) and (wrappers := [key for key in WRAPPERS if isinstance(content.get(key), dict)]):
        if len(wrappers) > 1:
            raise ValueError(f"{path} holds several states, {' and '.join(wrappers)}: save the one that is meant.")
        beside += [str(key) for key in content if key != wrappers[0]]
        content = content[wrappers[0]]
    content = content if isinstance(content, dict) else {}
    state = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not state:
        raise ValueError(f"{path} holds no tensors by name (searched also under {', '.join(WRAPPERS)}).")
    if others := sorted(str(name) for name in content if str(name) not in state):
        raise ValueError(f"{path} holds {len(others)} values among its tensors that are none: {listing(others)}.")
    return state, beside


def _recognise(path: Path, names: list[str]) -> tuple[type[DescribedNetwork], PublicLayout]:
    if any(name.startswith(("film.", "text_bank")) for name in names):
        raise ValueError(
            f"{path} holds a network of this project without the header that says what it is. Give the .safetensors "
            "file that training wrote."
        )
    found = [item for item in LAYOUTS if any(re.match(item[1].mark, name) for name in names)]
    if refused := next((layout for _, layout in found if layout.refusal), None):
        raise ValueError(f"{path} {refused.refusal}.")
    if not found:
        raise ValueError(f"{path} is none of the known layouts ({', '.join(KNOWN)}); its names: {listing(names)}.")
    return found[0]


def _rename(path: Path, plain: dict[str, str], layout: PublicLayout) -> tuple[dict[str, str], dict[str, str]]:
    """Their name for each of ours, and their names that are dropped, with the reason, from their plain names."""
    origin: dict[str, str] = {}
    dropped: dict[str, str] = {}
    unexplained = []
    for name, short in plain.items():
        pattern = next((rule for rule in (*layout.dropped, *layout.rules) if re.fullmatch(rule, short)), None)
        if pattern is None:
            unexplained.append(name)
        elif pattern in layout.dropped:
            dropped[name] = layout.dropped[pattern]
        elif (ours := re.sub(pattern, layout.rules[pattern], short)) in origin:
            raise ValueError(f"{path} holds {ours} twice, as {origin[ours]} and {name}: remove one.")
        else:
            origin[ours] = name
    if unexplained:
        raise ValueError(
            f"{path} is of family {layout.name!r}, which does not explain {len(unexplained)} of its names: "
            f"{listing(unexplained)}. Nothing was taken: another variant of that network is not supported."
        )
    return origin, dropped


def _sizes(
    path: Path, network: type[DescribedNetwork], layout: PublicLayout, state: dict[str, torch.Tensor]
) -> dict[str, Any]:
    def shape(name: str, rank: int) -> torch.Size:
        if name not in state:
            raise ValueError(f"lacks {name}, without which it is no network of family {layout.name!r}.")
        if state[name].ndim != rank:
            raise ValueError(f"has {name} of shape {tuple(state[name].shape)}, which must have {rank} axes.")
        return state[name].shape

    try:
        sizes = network.read_settings(shape, layout)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    channels = sizes.pop("in_channels")
    if channels != 1:
        raise ValueError(f"{path} takes images of {channels} channels; CT has one: not supported.")
    return sizes
