"""Weights files: safetensors with a header that says what they are; loading is strict."""

import json
import logging
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

import monai
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

import custom
from custom.anatomy.class_set import ClassSet
from custom.networks.film_swin_unetr import VARIANTS
from custom.text.bank import SAME_MODEL, PromptBank
from custom.text.no_text import NoText
from custom.utils.files import save_safetensors

logger = logging.getLogger(__name__)

FORMAT = "deep-film-weights-1"

#: An image encoder without a network, to start a training from.
PRETRAINED_FORMAT = "deep-film-pretrained-1"

#: Header entries that describe the training; all others must equal the run's.
DESCRIPTIVE = ("roi_size", "max_classes_per_prompt", "trained_classes", "class_set", "default_prompt", "provenance")

#: What every header holds, beside the sizes of its network.
HEADER = (
    *("text_encoder", "text_kind", "text_dim", "variant", "spacing", "intensity_window", "classes"),
    *("roi_size", "max_classes_per_prompt", "trained_classes", "class_set", "default_prompt"),
)

#: Entries that earlier versions wrote under other names.
RENAMED = {"labelled": "trained_classes", "max_classes": "max_classes_per_prompt"}

#: Entries that no setting of their own sets: the class set decides them, or the text encoder.
WITHOUT_SETTING = ("intensity_window", "classes", "text_dim")

#: Entries whose setting has another name.
SETTING_NAMES = {"img_size": "roi_size"}


def describe_weights(
    *,
    class_set: ClassSet,
    bank: PromptBank | NoText,
    architecture: Mapping[str, Any],
    spacing: Sequence[float],
    roi_size: Sequence[int],
    max_classes_per_prompt: int,
    trained_classes: Sequence[str],
) -> dict[str, Any]:
    """Collect what a weights header states, which is all that inference needs to know of a training.

    Args:
        class_set: classes of the output channels, in order.
        bank: gives text encoder, kind and dimension.
        architecture: which network: ``variant``, and its sizes (``feature_size``, ``window_size``, ...).
        spacing: working resolution (H, W, D) in mm.
        roi_size: training window (H, W, D) in voxels.
        max_classes: most classes that one sentence may name.
        labelled: names of the classes that the training data label: the others were never learned.
    """
    return {
        "text_encoder": bank.encoder_id,
        "text_kind": bank.kind,
        "text_dim": bank.dimension,
        **architecture,
        "spacing": list(spacing),
        "roi_size": list(roi_size),
        "intensity_window": list(class_set.intensity_window),
        "max_classes_per_prompt": min(max_classes_per_prompt, len(trained_classes)),
        "trained_classes": list(trained_classes),
        "class_set": class_set.name,
        "classes": list(class_set.names),
        "default_prompt": class_set.default_prompt,
    }


def differing_keys(held: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Entries by which two headers describe different networks; what describes only the training does not count."""
    return [key for key in {**held, **here} if key not in DESCRIPTIVE and held.get(key) != here.get(key)]


def save_weights(
    network: nn.Module, path: str | Path, *, header: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:
    """Write a network's state to ``path``, whole.

    Args:
        network: its parameters and buffers are stored under their own names.
        path: a .safetensors file.
        header: what ``describe_weights`` returns; compared when loading.
        provenance: how the weights came to be (versions, epoch, scores); not compared.
    """
    metadata = {
        "format": FORMAT,
        "header": json.dumps(dict(header)),
        "provenance": json.dumps(dict(provenance)),
    }
    save_safetensors(network.state_dict(), path, metadata=metadata)


def run_provenance() -> dict[str, str]:
    """What every provenance begins with: versions, machine and date."""
    return {
        "deep_film": custom.__version__,
        "monai": monai.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def read_header(path: str | Path) -> dict[str, Any]:
    """Header of a weights file, with ``provenance`` under its own key.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a weights file of this project.
    """
    metadata = _read_metadata(path)
    header: dict[str, Any] = json.loads(metadata["header"])
    return header | {"provenance": json.loads(metadata["provenance"])}


def read_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors of a weights file by name, and its metadata as stored: ``format``, ``header`` and ``provenance``.

    Raises as ``read_header`` does.
    """
    metadata = _read_metadata(path)
    return load_file(str(path)), metadata


def differing_tensors(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> list[str]:
    """Names, in order, of what only one of two states has, or has otherwise."""
    return sorted(n for n in {**one, **other} if n not in one or n not in other or not one[n].equal(other[n]))


def find_state(weights: str | Path) -> Path | None:
    """``model.pt`` beside a weights file that an export made of it; any other of that name is a user's own."""
    path = Path(weights).with_suffix(".pt")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return None if differing_tensors(read_weights(weights)[0], state) else path
    except Exception:  # one of them is not there, or is something else
        return None


def is_weights_file(path: str | Path) -> bool:
    """Whether ``path`` is a file that ``save_weights`` wrote, whole or not."""
    if not Path(path).is_file() or Path(path).suffix != ".safetensors":
        return False
    try:
        with safe_open(str(path), framework="pt") as file:
            return bool((file.metadata() or {}).get("format") == FORMAT)
    except SafetensorError:
        return False


def _read_metadata(path: str | Path) -> dict[str, str]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There are no trained weights at {path}: train first (python -m monai.bundle run training ...), or pass "
            "--weights /path/to/model.safetensors. The demonstration's, for phantoms, are models/demo.safetensors in "
            "the bundle."
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or it is cut short: {error}") from error
    if metadata.get("format") == PRETRAINED_FORMAT:
        raise ValueError(
            f"{path} holds a pretrained image encoder and no network to run: train with --pretrained {path} first."
        )
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not a weights file of this project: format {metadata.get('format')!r}. Weights of another code "
            f"are converted first: python scripts/convert_weights.py network --source {path} --output "
            "model.safetensors."
        )
    try:
        header = {RENAMED.get(key, key): value for key, value in json.loads(metadata["header"]).items()}
        metadata["header"] = json.dumps(header)
        missing = [key for key in HEADER if key not in header]
        json.loads(metadata["provenance"])
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: its header cannot be read: {error!r}.") from error
    if missing:
        raise ValueError(f"{path} is damaged or of another version: its header lacks {', '.join(missing)}.")
    return metadata


def header_value(path: str | Path, key: str, default: Any) -> Any:
    """What the weights at ``path`` say of ``key``; ``default`` where there are none yet, or another network's."""
    return read_header(path).get(key, default) if Path(path).is_file() else default


def check_settings(path: str | Path, *, class_set: ClassSet, architecture: Mapping[str, Any], **settings: Any) -> None:
    """Refuse, before a text encoder or a network is built, settings and classes that contradict the weights.

    Args:
        path: a weights file.
        class_set: the classes of this run.
        architecture: the network of this run, see ``describe_weights``.
        **settings: further entries of the header that this run sets, by name.

    Raises:
        ValueError: one differs from the header; the message names the setting.
    """
    held = read_header(path)
    here = {**architecture, **settings, "classes": list(class_set.names)}
    here["intensity_window"] = list(class_set.intensity_window)
    if differing := [key for key in here if held.get(key) != here[key]]:
        raise _mismatch(path, differing, held, here)


def load_weights(
    network: nn.Module, path: str | Path, *, header: Mapping[str, Any], bank: PromptBank | NoText
) -> nn.Module:
    """Load ``path`` into ``network``, strictly, and return the network; half precision is widened to the network's.

    The network keeps the vector of its default prompt; where the bank can have that prompt too, the two must agree,
    which tells apart encoders that share name and dimension. Zeros stand for a vector that a conversion could not have.

    Args:
        network: built with the settings that ``header`` describes.
        path: a file that ``save_weights`` wrote.
        header: what ``describe_weights`` returns for this run.
        bank: vectors of the text encoder of this run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another format, header, tensor name or shape; the message names the setting.
    """
    held = read_header(path)
    if differing := differing_keys(held, header):
        raise _mismatch(path, differing, held, header)
    state, _ = read_weights(path)
    if unfit := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise ValueError(
            f"The weights {path} hold NaN or infinity, e.g. in {unfit[0]}: the training that wrote them failed. Use "
            "other weights."
        )
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(f"The weights {path} belong to another network than their header says: {error}") from error
    if described := held["provenance"].get("data", {}).get("description"):
        logger.info("Weights %s were trained on: %s.", path, described)
    if not isinstance(bank, PromptBank):
        return network
    prompt = held["default_prompt"]
    stored = state["default_text"].float()
    if stored.any() and bank.holds([prompt]) and torch.cosine_similarity(bank(prompt), stored).item() < SAME_MODEL:
        raise ValueError(
            f"The weights {path} were trained with another model behind text encoder {held['text_encoder']!r}: its "
            f"vector of {prompt!r} differs. Pass the --text_model (hub id or folder) of that training."
        )
    return network


def _mismatch(
    path: str | Path, differing: Sequence[str], held: Mapping[str, Any], here: Mapping[str, Any]
) -> ValueError:
    detail = "; ".join(_difference(key, held.get(key), here.get(key)) for key in differing)
    variants = {held["variant"], here.get("variant", held["variant"])}
    if len(variants) > 1 and not variants <= set(VARIANTS):
        advice = "Run the bundle of that network, or give other weights"
        if held["variant"] in VARIANTS:
            advice = f'Pass --variant "{held["variant"]}" to a FiLM bundle; in another, give other weights'
    elif settings := [key for key in differing if key not in WITHOUT_SETTING]:
        values = (f"--{SETTING_NAMES.get(key, key)} {json.dumps(held.get(key))}" for key in settings)
        advice = f"Pass {' '.join(values)}, or other weights"
    elif "text_dim" in differing:
        advice = "Use the text encoder of that training (--text_model), or other weights"
    else:
        advice = "Pass the class set of that training (--class_set_file), or other weights"
    return ValueError(f"The weights {path} do not fit this run: {detail}. {advice}.")


def _difference(key: str, there: Any, here: Any) -> str:
    if key == "classes":
        pairs = enumerate(zip_longest(there, here), start=1)
        index, (theirs, ours) = next((index, pair) for index, pair in pairs if pair[0] != pair[1])
        return f"{len(there)} classes there and {len(here)} here, the first that differs: {index}, {theirs!r}, {ours!r}"
    return f"{key} is {json.dumps(there)} there and {json.dumps(here)} here"
