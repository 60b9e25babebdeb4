"""Weights of public codes under our names, which the network classes state (``DescribedNetwork.LAYOUTS``)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from custom.networks import NETWORKS, DescribedNetwork
from custom.networks.described import PublicLayout

#: Under which keys codes keep a network's state in a torch file.
WRAPPERS = ("state_dict", "net", "model")

#: How the names of Swin encoders' own integer buffers end.
INDEX = "relative_position_index"


@dataclass(frozen=True)
class PublicCheckpoint:
    """A file of another code, read and renamed.

    ``network`` is the class that takes it. ``state`` is by our names, ``origin`` gives their name for each; ``dropped``
    maps their names to why they are left out. ``sizes`` are what the shapes tell (``DescribedNetwork.read_settings``).
    """

    path: Path
    network: type[DescribedNetwork]
    layout: PublicLayout
    state: dict[str, torch.Tensor]
    origin: dict[str, str]
    dropped: dict[str, str]
    sizes: dict[str, Any]


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
    names: dict[str, str] = {}
    for name in theirs:
        plain = re.sub(r"^(module\.)+", "", name).replace(".mlp.fc", ".mlp.linear")
        if plain in names:
            raise ValueError(f"{path} holds one tensor twice, as {names[plain]} and {name}: remove one.")
        names[plain] = name
    network, layout = _recognise(path, names)
    known = [layout.name for _, layout in _layouts() if not layout.refusal]
    if family not in (None, *known):
        raise ValueError(f"family must be one of {', '.join(known)}, not {family!r}.")
    if family not in (None, layout.name):
        raise ValueError(f"{path} was said to be of family {family!r}, but its names are those of {layout.name!r}.")
    origin, dropped = _rename(path, names, layout)
    dropped = dict.fromkeys(beside, "beside the network's state") | dropped
    state = {ours: theirs[name] for ours, name in origin.items()}
    if unfit := [
        f"{origin[o]} {t.dtype}" for o, t in state.items() if not (t.is_floating_point() or o.endswith(INDEX))
    ]:
        raise ValueError(
            f"{path} holds {len(unfit)} parameters that are no floating-point numbers: {listing(unfit)}. Give the "
            "weights before they were quantised."
        )
    if unfit := [origin[ours] for ours, tensor in state.items() if not tensor.isfinite().all()]:
        raise ValueError(
            f"{path} holds NaN or infinity in {len(unfit)} tensors: {listing(unfit)}. The training that wrote it "
            "failed: use an earlier checkpoint."
        )
    network.adapt(state)
    return PublicCheckpoint(path, network, layout, state, origin, dropped, _sizes(path, network, layout, state))


def listing(names: Sequence[str]) -> str:
    """The first ten names, and how many there are besides."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _read_state(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors of a network by name, and what else the file holds beside them."""
    if not path.is_file():
        raise FileNotFoundError(f"There are no pretrained weights at {path} (--pretrained, --source).")
    try:
        if path.suffix == ".safetensors":
            return load_file(str(path)), []
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


def _layouts() -> Iterator[tuple[type[DescribedNetwork], PublicLayout]]:
    return ((network, layout) for network in NETWORKS.values() for layout in network.LAYOUTS)


def _recognise(path: Path, names: Sequence[str] | dict[str, str]) -> tuple[type[DescribedNetwork], PublicLayout]:
    if any(name.startswith(("film.", "text_bank")) for name in names):
        raise ValueError(
            f"{path} holds a network of this project without the header that says what it is. Give the .safetensors "
            "file that training wrote."
        )
    found = [item for item in _layouts() if any(re.match(item[1].mark, name) for name in names)]
    if refused := next((layout for _, layout in found if layout.refusal), None):
        raise ValueError(f"{path} {refused.refusal}.")
    if not found:
        known = ", ".join(layout.name for _, layout in _layouts() if not layout.refusal)
        raise ValueError(f"{path} is none of the known layouts ({known}); its names: {listing(list(names))}.")
    return found[0]


def _rename(path: Path, names: dict[str, str], layout: PublicLayout) -> tuple[dict[str, str], dict[str, str]]:
    """Their name for each of ours, and their names that are dropped, with the reason."""
    origin: dict[str, str] = {}
    dropped: dict[str, str] = {}
    unexplained = []
    for plain, name in names.items():
        rule = next((rule for rule in layout.rules if re.fullmatch(rule.pattern, plain)), None)
        if rule is None:
            unexplained.append(name)
        elif rule.ours is None:
            dropped[name] = rule.reason
        elif (ours := re.sub(rule.pattern, rule.ours, plain)) in origin:
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
