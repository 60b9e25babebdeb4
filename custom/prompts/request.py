"""From what a user typed to what the network is given: parsed once, and one object from there to the summary."""

import logging
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
import torch

from custom.anatomy.class_set import ClassSet
from custom.prompts.grammar import PromptError, Structure
from custom.prompts.resolve import Resolution, resolve_prompt
from custom.prompts.sentences import write_sentence
from custom.prompts.vectors import class_sentence
from custom.text.bank import MissingPromptError, PromptBank
from custom.text.encoders import PromptTooLongError
from custom.text.no_text import NoText

logger = logging.getLogger(__name__)

#: What reaches the network: the canonical sentence of the classes understood, or the user's own words.
PROMPT_TEXTS = ("canonical", "raw")

#: Most classes that one sentence names: the longest 15 names are 76 of CLIP's 77 tokens.
MAX_CLASSES = 15


@dataclass(frozen=True)
class PromptRequest:
    """A prompt as it was understood, and the sentences that stand for it.

    `classes` holds, for each of P `sentences`, the classes (1-based, of `class_set`) to read from its decode.
    `prompt_text` is "canonical", "raw", or "unread" for a network that does not read the prompt. `summary` is the entry
    `prompt` of `summary.json`.
    """

    resolution: Resolution
    sentences: tuple[str, ...]
    classes: tuple[tuple[int, ...], ...]
    prompt_text: str
    class_set: ClassSet = field(repr=False)

    @property
    def text(self) -> str:
        return self.resolution.text

    @property
    def structures(self) -> tuple[Structure, ...]:
        return self.resolution.structures

    @property
    def named(self) -> torch.Tensor:
        """(P, K) bool: the channels to read from the decode of each sentence."""
        return torch.stack([class_mask(indices, len(self.class_set)) for indices in self.classes])

    def explain(self) -> list[str]:
        return self.resolution.explain(self.class_set)

    def summary(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "understood": list(self.resolution.titles(self.class_set)),
            "corrections": [{"typed": typed, "read_as": word} for typed, word in self.resolution.corrections],
            "left_out": [self.class_set[index].name for index in self.resolution.left_out],
            "sentences": [sentence for sentence in self.sentences if sentence],
            "prompt_text": self.prompt_text,
        }


@dataclass
class PromptParser:
    """Parses prompts for one network.

    - ``prompt_text`` "canonical": the sentences of the classes to decode, in the order of the class set, of at most
      ``group_size`` each and no longer than the encoder reads. With 1, a mask does not depend on what else is
      requested. Where the bank can have neither a sentence nor the encoder, each class gets a sentence of its own,
      whichever the bank holds of it;
    - "raw": the user's own words, once, for all classes that they need: at most ``max_classes_per_prompt``, the most
      that a sentence named in the network's training.

    A network that does not read the prompt (bank ``NoText``) gets one empty sentence for all. ``trained_classes`` names
    the classes that the network was trained on; None means all.
    """

    class_set: ClassSet
    bank: PromptBank | NoText
    _: KW_ONLY
    max_classes_per_prompt: int = MAX_CLASSES
    group_size: int = 1
    trained_classes: Sequence[str] | None = None
    prompt_text: str = "canonical"

    def __post_init__(self) -> None:
        if self.prompt_text not in PROMPT_TEXTS:
            raise ValueError(f"prompt_text must be one of {list(PROMPT_TEXTS)}, not {self.prompt_text!r}.")
        most = self.max_classes_per_prompt
        if not isinstance(most, int) or most < 1:
            raise ValueError(f"max_classes_per_prompt must be a whole number from 1, not {most!r}.")
        if not isinstance(self.group_size, int) or not 1 <= self.group_size <= most:
            rule = (
                f"group_size must be a whole number from 1 to {most}, the most classes that the weights read together"
            )
            raise ValueError(f"{rule}, not {self.group_size!r}.")
        if isinstance(self.bank, NoText) and self.group_size > 1:
            raise ValueError("group_size has no effect on a network that does not read the prompt: leave it out.")

    def __call__(self, prompt: Any) -> PromptRequest:
        """Parse one prompt, as a command line gives it.

        Raises:
            PromptError: a prompt that cannot be understood; raw text that needs too many classes.
            PromptTooLongError: raw text that is longer than the encoder reads.
            ValueError: a class that the network was never trained on.
            MissingPromptError: raw text that the bank does not hold, without an encoder.
        """
        trained = self.class_set.names if self.trained_classes is None else self.trained_classes
        available = {self.class_set.index(name) for name in trained}
        resolution = resolve_prompt(prompt, self.class_set, available)
        indices = sorted(resolution.indices)
        if unlearned := [self.class_set[index].name for index in indices if index not in available]:
            rule = f"These weights were not trained on {', '.join(unlearned)}"
            raise ValueError(f"{rule}. They know: {', '.join(trained)}.")
        prompt_text = self.prompt_text
        if isinstance(self.bank, NoText):
            classes, sentences, prompt_text = [indices], [""], "unread"
        elif prompt_text == "raw":
            classes, sentences = [indices], [self._raw(indices, resolution.text, self.bank)]
        else:
            classes, sentences = self._canonical(indices, self.bank)
        return PromptRequest(resolution, tuple(sentences), tuple(map(tuple, classes)), prompt_text, self.class_set)

    def _canonical(self, indices: Sequence[int], bank: PromptBank) -> tuple[list[list[int]], list[str]]:
        """As few sentences as name all classes, each within ``group_size`` and the encoder's context."""
        for most in range(min(self.group_size, len(indices)), 0, -1):
            parts = split_evenly(indices, most)
            sentences = [write_sentence(self.class_set, part) for part in parts]
            try:
                if bank.holds(sentences):
                    return parts, sentences
                break
            except PromptTooLongError:
                if most == 1:
                    raise
        logger.warning("No text encoder here and the sentence is not in the bank: one sentence for each class.")
        return [[index] for index in indices], [class_sentence(bank, self.class_set, index) for index in indices]

    def _raw(self, indices: Sequence[int], words: str, bank: PromptBank) -> str:
        remedy = "use several prompts, or --prompt_text canonical"
        if len(indices) > self.max_classes_per_prompt:
            rule = f"Raw text must need at most {self.max_classes_per_prompt} classes, not {len(indices)}"
            raise PromptError(f"{rule} as {words!r:.80} does: {remedy}.")
        sentence = " ".join(words.split())
        try:
            if bank.holds([sentence]):
                return sentence
        except PromptTooLongError as error:
            raise PromptTooLongError(f"{error} Raw text is never cut: {remedy}.") from error
        rule = f"Raw text needs a text encoder, or a prompt bank that holds it; {sentence!r:.80} has neither here"
        raise MissingPromptError(f"{rule}: choose another --text_bank, or --prompt_text canonical.")


def split_evenly(indices: Sequence[int], most: int) -> list[list[int]]:
    """Divide a sequence into the fewest parts of at most ``most``, of nearly equal length."""
    return [part.tolist() for part in np.array_split(np.asarray(indices), -(-len(indices) // most))]


def class_mask(indices: Sequence[int], count: int) -> torch.Tensor:
    """Mask (K,) bool of 1-based classes."""
    return torch.isin(torch.arange(1, count + 1), torch.tensor(list(indices)))
