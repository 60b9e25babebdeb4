"""Which words of a prompt move the answer: each is left out in turn, and the class's probabilities are compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from monai.inferers.utils import sliding_window_inference

from custom.files import whole_file
from custom.networks import FiLMSwinUNETR
from custom.outputs.drawing import shorten
from custom.text import PromptBank

#: Longest prompt, in words: each costs a decoding of every window.
MOST_WORDS = 40


@dataclass(frozen=True)
class PromptMap:
    """What each word of a prompt does to one class.

    Args:
        name: the class.
        prompt: as the network reads it.
        words: of the prompt, in order.
        effects: of each word, the probability that moves when it is left out, over the class's probability in the
            answer: sum |p - p'| / sum p over the voxels. 0: the word changes nothing; 1: as much moves as there was.
        volume_ml: sum p times a voxel's volume: of the whole prompt, and without each word.
    """

    name: str
    prompt: str
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
) -> PromptMap:
    """Leave each word of a prompt out in turn and measure what that does to one class.

    A window is encoded once and decoded for every sentence; only the class's channel is computed.

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

    Raises:
        ValueError: a prompt of one word, or of more than ``MOST_WORDS``.
    """
    words = prompt.split()
    if not 1 < len(words) <= MOST_WORDS:
        raise ValueError(f"A prompt map needs 2 to {MOST_WORDS} words, of which each is left out, not {len(words)}.")
    sentences = [prompt, *(" ".join(words[:i] + words[i + 1 :]) for i in range(len(words)))]
    device = next(network.parameters()).device
    texts = bank(sentences).to(device)

    def answer(windows: torch.Tensor) -> torch.Tensor:
        features = network.encode(windows)
        return torch.cat([network.decode(features, text[None], channels=[channel]) for text in texts], 1)

    with torch.no_grad():
        logits = sliding_window_inference(image.to(device), list(roi_size), 1, answer, overlap=overlap)
        probability = torch.as_tensor(logits)[0].sigmoid().cpu().double()
    whole = probability[0]
    moved = (probability[1:] - whole).abs().sum((1, 2, 3)) / whole.sum()
    return PromptMap(
        name=name,
        prompt=prompt,
        words=tuple(words),
        effects=tuple(moved.tolist()),
        volume_ml=tuple((probability.sum((1, 2, 3)) * voxel_ml).tolist()),
    )


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
    axes.set_title(f"{found.name}: what each word does", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
