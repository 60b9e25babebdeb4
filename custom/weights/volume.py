"""The section ``volume`` of a weights header: what bundles that segment organs in 3D images need beside the network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from custom.anatomy.class_set import ClassSet
from custom.anatomy.loading import load_class_set
from custom.networks import NETWORKS, DescribedNetwork
from custom.text.bank import SAME_MODEL, PromptBank
from custom.text.no_text import NoText
from custom.weights.header import SETTING_PATHS, Header, differing_settings, mismatch, read_header
from custom.weights.io import load_weights


def describe_volume_weights(
    network: DescribedNetwork,
    *,
    class_set: ClassSet,
    bank: PromptBank | NoText,
    spacing: Sequence[float],
    roi_size: Sequence[int],
    max_classes_per_prompt: int,
    trained_classes: Sequence[str],
) -> Header:
    """The header of weights: the network with its settings, and all that inference needs to know of the training.

    Args:
        class_set: classes of the output channels, in order.
        bank: gives text encoder, kind and dimension.
        spacing: working resolution (H, W, D) in mm.
        roi_size: training window (H, W, D) in voxels.
        max_classes_per_prompt: most classes that one sentence may name.
        trained_classes: names of the classes that the training data label: the others were never learned.
    """
    name = next((cls.__name__ for cls in type(network).__mro__ if cls.__name__ in NETWORKS), "")
    if not name:
        ours = ", ".join(f"custom.networks.{known}" for known in NETWORKS)
        raise ValueError(
            f"network_def must be one of {ours}, or derived from "
            f"one, not {type(network).__name__}: a network is called with windows (B, C, H, W, D) and text (B, E), and "
            "states its `settings`. custom/networks/__init__.py says how to add one."
        )
    return {
        "network": name,
        "settings": network.settings,
        "volume": {
            "class_set": class_set.name,
            "classes": list(class_set.names),
            "trained_classes": list(trained_classes),
            "default_prompt": class_set.default_prompt,
            "max_classes_per_prompt": min(max_classes_per_prompt, len(trained_classes)),
            "spacing": list(spacing),
            "roi_size": list(roi_size),
            "intensity_window": list(class_set.intensity_window),
            "text_encoder": bank.encoder_id,
            "text_kind": bank.kind,
            "text_dim": bank.dimension,
        },
    }


def read_volume_settings(weights: str | Path, *, network: str, **defaults: Any) -> SimpleNamespace:
    """What a weights file states of its network and training, as attributes: ``$@trained.spacing`` in a config.

    Without the file the network, a class of ``custom.networks``, has the settings ``defaults`` and was trained on
    nothing, for CT. ``no_text`` stands for a bank where the text vectors are inside the network.

    Raises:
        ValueError: weights of another network, or without the section ``volume``.
    """
    if Path(weights).is_file():
        header = read_header(weights)
        if header["network"] != network:
            raise mismatch(weights, {"network": (header["network"], network)})
        entries = header["settings"] | volume_section(header, weights)
    else:
        entries = {"class_set": None, "spacing": list(load_class_set().spacing), "roi_size": [96, 96, 96]}
        entries |= {"max_classes_per_prompt": 15, "trained_classes": []}
        entries |= {"text_encoder": "clip", "text_kind": None, "text_dim": 0} | defaults
    no_text = NoText(*(entries[key] for key in ("text_encoder", "text_kind", "text_dim")))
    return SimpleNamespace(**entries | {"no_text": no_text})


def volume_section(header: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """The section of a header; raises ValueError where there is none, in weights of another family of bundles."""
    if "volume" not in header:
        raise ValueError(f"{path} holds a {header['network']}, which segments no organs in 3D: run its own bundle.")
    section: dict[str, Any] = header["volume"]
    return section


def check_class_set(weights: str | Path, class_set: ClassSet) -> None:
    """Raise ValueError, before a network is built, for other classes or intensities than those of the weights."""
    held = volume_section(read_header(weights), weights)
    here = {"classes": list(class_set.names), "intensity_window": list(class_set.intensity_window)}
    if differing := differing_settings({"volume": {key: held[key] for key in here}}, {"volume": here}):
        raise mismatch(weights, differing)


def load_volume_weights(
    network: nn.Module, path: str | Path, *, header: Mapping[str, Any], bank: PromptBank | NoText
) -> nn.Module:
    """Load ``path`` into ``network`` as ``load_weights`` does, and compare text encoders.

    The network keeps the vector of its default prompt; where the bank can have that prompt too, the two must agree,
    which distinguishes encoders of one name and dimension. Zeros stand for a vector that a conversion could not have.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see ``load_weights``; another model behind the text encoder.
    """
    state, held = load_weights(network, path, header=header)
    volume = volume_section(held, path)
    if isinstance(bank, PromptBank):
        prompt, stored = volume["default_prompt"], state["default_text"].float()
        if stored.any() and bank.holds([prompt]) and torch.cosine_similarity(bank(prompt), stored).item() < SAME_MODEL:
            raise ValueError(
                f"The weights {path} were trained with another model behind text encoder {volume['text_encoder']!r}: "
                f"its vector of {prompt!r} differs. Pass the --text_model (hub id or folder) of that training."
            )
    return network


def training_settings(header: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, by their path in ``train.json``, of a training with the network, text and geometry of weights."""
    entries = {key: value for key, value in header["settings"].items() if key not in ("text_dim", "img_size")}
    kept = ("text_encoder", "text_kind", "spacing", "roi_size", "max_classes_per_prompt")
    entries |= {key: header["volume"][key] for key in kept}
    return {SETTING_PATHS.get(key, key): value for key, value in entries.items()}
