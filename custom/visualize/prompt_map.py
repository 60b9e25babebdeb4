"""Which words of a prompt move the answer: each is left out in turn, and the class's probabilities are compared."""

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
from custom.utils.files import atomic_write
from custom.visualize.page import shorten

#: Longest prompt, in words: each costs a decoding of every window.
MOST_WORDS = 40


@dataclass(frozen=True)
class PromptMap:
    """What each word of a prompt does to one class.

    Args:
        name: the class.
        prompt: as the network reads it.
        found: whether the class has a voxel of probability 0.5 or more under the whole prompt; else effects are noise.
        words: of the prompt, in order.
        effects: of each word, the probability that moves when it is left out, over the class's probability in the
            answer: sum |p - p'| / sum p over the voxels. 0: the word changes nothing; 1: as much moves as there was.
        volume_ml: sum p times a voxel's volume: of the whole prompt, and without each word.
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
    """Leave each word of a prompt out in turn and measure what that does to one class.

    A window is encoded once and decoded for every sentence; only the class's channel is computed. Main memory: four
    bytes a voxel and sentence.

    Args:
        network: reads text.
        image: (1, 1, H, W, D), preprocessed.
        prompt: words separated by white space; the network reads them as they are.
        bank: the text encoder of the network's training.
        channel: of the class, 0-based.
        name: of the class.
        roi_size: window (H, W, D) in voxels.
        overlap: of neighbouring windows.
        voxel_ml: volume of a voxel in mL.
        progress: whether to show a bar of the windows.

    Raises:
        ValueError: a prompt of one word, or of more than ``MOST_WORDS``.
    """
    words = prompt.split()
    device = next(network.parameters()).device
    texts = bank(_sentences(prompt)).to(device)

    def answer(windows: torch.Tensor) -> torch.Tensor:
        features = network.encode(windows)
        return torch.cat([network.decode(features, text[None], channels=[channel]) for text in texts], 1)

    with torch.no_grad():
        logits = sliding_window_inference(
            image, list(roi_size), 1, answer, overlap=overlap, sw_device=device, device="cpu", progress=progress
        )
    probabilities = torch.as_tensor(logits)[0].sigmoid_()
    whole = probabilities[0]
    sums = [float(probability.sum(dtype=torch.float64)) for probability in probabilities]
    moved = [float((less - whole).abs_().sum(dtype=torch.float64)) / sums[0] for less in probabilities[1:]]
    return PromptMap(
        name=name,
        prompt=prompt,
        found=bool((whole >= 0.5).any()),
        words=tuple(words),
        effects=tuple(moved),
        volume_ml=tuple(voxel_ml * total for total in sums),
    )


def check_mapped(
    prompt: str,
    structure: str,
    *,
    network: nn.Module,
    bank: PromptBank,
    class_set: ClassSet,
    trained_classes: Sequence[str],
) -> int:
    """The class (1-based) whose prompt map is asked for; all sentences are encoded, before any work.

    Args:
        prompt: the words that are left out in turn.
        structure: names the class.
        network: of the weights.
        bank: their text encoder.
        class_set: what the words mean.
        trained_classes: names of the classes that the weights know.

    Raises:
        ValueError: a network that does not read the prompt, a prompt of too few or too many words, not one class, or
            one that the weights do not know.
        TextEncoderUnavailable: the encoder's files cannot be had.
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


def write_prompt_map(found: PromptMap, folder: str | Path) -> tuple[Path, Path]:
    """Write ``prompt_map_<class>.png`` and ``.json`` to a folder, and return the two."""
    stem = Path(folder) / f"prompt_map_{found.name.replace(' ', '_')}"
    picture, table = stem.with_suffix(".png"), stem.with_suffix(".json")
    draw_prompt_map(found, picture)
    with atomic_write(table) as temporary:
        temporary.write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")
    return picture, table


def _sentences(prompt: str) -> list[str]:
    """The prompt, then it without each of its words."""
    words = prompt.split()
    if not 1 < len(words) <= MOST_WORDS:
        raise ValueError(f"A prompt map needs 2 to {MOST_WORDS} words, of which each is left out, not {len(words)}.")
    return [prompt, *(" ".join(words[:i] + words[i + 1 :]) for i in range(len(words)))]


def draw_prompt_map(found: PromptMap, path: str | Path) -> None:
    """Draw the effects as bars, a word each, in the order of the prompt, to a PNG."""
    figure = Figure(figsize=(6.5, 1 + 0.3 * len(found.words)), layout="constrained", dpi=100)
    axes = figure.subplots()
    bars = axes.barh(range(len(found.words)), found.effects, color="#2a6f97")
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    axes.set_yticks(range(len(found.words)), [shorten(word, 30) for word in found.words])
    axes.invert_yaxis()
    axes.set_xlim(0, max(0.01, 1.12 * max(found.effects)))
    axes.set_xlabel("probability that moves without the word / probability of the answer", fontsize=9)
    title = f"{found.name}{'' if found.found else ' (not found)'}: what each word does"
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
