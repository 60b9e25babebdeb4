"""Effect of each word of a prompt: the change of a class's probabilities when the word is left out."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from monai.inferers.utils import sliding_window_inference
from torch import nn

from custom.anatomy.class_set import ClassSet
from custom.networks.film_swin_unetr import FiLMSwinUNETR
from custom.prompts.resolve import resolve_prompt
from custom.text.bank import PromptBank
from custom.visualize.page import shorten

#: Longest prompt, in words: each takes a decoding of every window.
MOST_WORDS = 40


@dataclass(frozen=True)
class PromptMap:
    """Effect of each word of a prompt on one class.

    Attributes:
        name: the class.
        found: whether any voxel has a probability of 0.5 or more under the whole prompt; otherwise effects are noise.
        effects: for each word, sum |p - p'| / sum p over the voxels, where p is the class's probability under the
            whole prompt and p' without the word; 0 means no effect.
        volume_ml: sum p times a voxel's volume: under the whole prompt, and without each word.
    """

    name: str
    prompt: str
    found: bool
    words: tuple[str, ...]
    effects: tuple[float, ...]
    volume_ml: tuple[float, ...]


def map_prompt(
    network: FiLMSwinUNETR,
    image: torch.Tensor,
    *,
    prompt: str,
    bank: PromptBank,
    channel: int,
    name: str,
    roi_size: Sequence[int],
    overlap: float = 0.25,
    voxel_ml: float,
    progress: bool = False,
) -> PromptMap:
    """Leave out each word of a prompt in turn and measure the effect on one class.

    Each window is encoded once and decoded for every sentence, one channel only. Takes four bytes of main memory
    for each voxel and sentence.

    Args:
        image: (1, 1, H, W, D), preprocessed.
        prompt: words separated by white space, given to the network unchanged.
        bank: the text encoder that the network was trained with.
        channel: of the class ``name``, 0-based.
        roi_size: window (H, W, D) in voxels.
        voxel_ml: volume of a voxel in mL.

    Raises:
        ValueError: a prompt of one word, or of more than ``MOST_WORDS``.
    """
    device = next(network.parameters()).device
    texts = bank(_sentences(prompt)).to(device)

    def predict(windows: torch.Tensor) -> torch.Tensor:
        features = network.encode(windows)
        return torch.cat([network.decode(features, text[None], channels=[channel]) for text in texts], 1)

    with torch.no_grad():
        logits = sliding_window_inference(
            image, list(roi_size), 1, predict, overlap=overlap, sw_device=device, device="cpu", progress=progress
        )
    probabilities = torch.as_tensor(logits)[0].sigmoid_()
    whole = probabilities[0]
    sums = [float(probability.sum(dtype=torch.float64)) for probability in probabilities]
    effects = tuple(float((other - whole).abs_().sum(dtype=torch.float64)) / sums[0] for other in probabilities[1:])
    volumes = tuple(voxel_ml * total for total in sums)
    return PromptMap(name, prompt, bool((whole >= 0.5).any()), tuple(prompt.split()), effects, volumes)


def check_mapped(
    prompt: str,
    structure: str,
    *,
    network: nn.Module,
    bank: PromptBank,
    class_set: ClassSet,
    trained_classes: Sequence[str],
) -> int:
    """Check a request for a prompt map before any work, encode its sentences, and return the class (1-based).

    Raises:
        ValueError: a network without text, too few or too many words, not exactly one class, or one that the weights
            do not know.
        TextEncoderUnavailable: the encoder's files are not available.
    """
    if not isinstance(network, FiLMSwinUNETR):
        raise ValueError("A prompt map needs a network that reads the prompt; that of this bundle does not.")
    names = [class_set[index].name for index in resolve_prompt(structure, class_set).indices]
    if len(names) != 1 or names[0] not in trained_classes:
        raise ValueError(
            f"A prompt map is of one class that the weights know, not of {', '.join(names)}: name one of "
            f"{', '.join(trained_classes)}."
        )
    bank(_sentences(prompt))
    return class_set.index(names[0])


def _sentences(prompt: str) -> list[str]:
    """The prompt, followed by the prompt without each of its words."""
    words = prompt.split()
    if not 1 < len(words) <= MOST_WORDS:
        raise ValueError(f"A prompt map needs 2 to {MOST_WORDS} words, of which each is left out, not {len(words)}.")
    return [prompt, *(" ".join(words[:i] + words[i + 1 :]) for i in range(len(words)))]


def write_prompt_map(result: PromptMap, folder: str | Path) -> None:
    """Write ``prompt_map_<class>.json`` to a folder, and ``.png`` with a bar for each word, in their order."""
    stem = Path(folder) / f"prompt_map_{result.name.replace(' ', '_')}"
    stem.with_suffix(".json").write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
    figure = Figure(figsize=(6.5, 1 + 0.3 * len(result.words)), layout="constrained", dpi=100)
    axes = figure.subplots()
    bars = axes.barh(range(len(result.words)), result.effects, color="#2a6f97")
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    axes.set_yticks(range(len(result.words)), [shorten(word, 30) for word in result.words])
    axes.invert_yaxis()
    axes.set_xlim(0, max(0.01, 1.12 * max(result.effects)))
    axes.set_xlabel("probability that moves without the word / probability of the mask", fontsize=9)
    title = f"{result.name}{'' if result.found else ' (not found)'}: what each word does"
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(stem.with_suffix(".png"), metadata={"Software": None})
