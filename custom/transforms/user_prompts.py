"""What a user asks for: from the words of a prompt to sentences and channels."""

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import Transform

from custom.anatomy.class_set import ClassSet
from custom.prompts.grammar import PromptError
from custom.prompts.resolve import Resolution, resolve_prompt
from custom.prompts.sentences import write_sentence
from custom.prompts.vectors import class_sentence
from custom.text.bank import MissingPromptError, PromptBank
from custom.text.encoders import PromptTooLongError
from custom.text.no_text import NoText
from custom.transforms.training_prompts import MAX_CLASSES, PROMPT_TEXTS, class_mask, split_evenly

logger = logging.getLogger(__name__)


class ResolvePromptd(Transform):
    """What a user typed -> the sentences that go to the network, and the channels to read from each.

    Reads ``prompt`` (text); adds ``asked`` (that text), ``named`` (P, K) bool, ``sentences`` (the new prompt as lines)
    and ``request`` (how it was read and which masks to write, as JSON), and replaces ``prompt`` by P sentences:

    - "canonical": those of the classes to decode, in the order of the class set, of at most ``max_classes_per_prompt``
    each and
      no longer than the encoder reads. Where the bank can have neither a sentence nor the encoder, each class is asked
      for alone, by whichever sentence the bank holds of it;
    - "raw": the user's own words, once, for all classes that they need.

    For a network that does not read the prompt (bank ``NoText``) there is one empty sentence for all.

    Args:
        class_set: the K classes.
        bank: where vectors come from.
        max_classes: most classes that one sentence names.
        labelled: names of the classes that the network was trained on; None means all.
        prompt_text: "canonical" or "raw".

    Raises:
        PromptError: a prompt that cannot be obeyed; raw text that names more than ``max_classes_per_prompt`` classes.
        PromptTooLongError: raw text that is longer than the encoder reads.
        ValueError: a class that the network was never trained on.
        MissingPromptError: no encoder, and the bank holds no sentence of a class, or not the raw text.
    """

    def __init__(
        self,
        class_set: ClassSet,
        bank: PromptBank | NoText,
        *,
        max_classes_per_prompt: int = MAX_CLASSES,
        trained_classes: Sequence[str] | None = None,
        prompt_text: str = "canonical",
    ) -> None:
        if prompt_text not in PROMPT_TEXTS:
            raise ValueError(f"prompt_text must be one of {list(PROMPT_TEXTS)}, not {prompt_text!r}.")
        if not isinstance(max_classes_per_prompt, int) or max_classes_per_prompt < 1:
            raise ValueError(
                f"max_classes of a sentence must be a whole number from 1, not {max_classes_per_prompt!r}."
            )
        self.class_set = class_set
        self.bank = bank
        self.max_classes_per_prompt = max_classes_per_prompt
        self.trained_classes = class_set.names if trained_classes is None else tuple(trained_classes)
        self.prompt_text = prompt_text
        self.explained: Resolution | None = None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result, resolution = self.read(data)
        if resolution != self.explained:  # once a run, not once an image
            self.explained = resolution
            for line in resolution.explain(self.class_set):
                logger.info(line)
            if isinstance(self.bank, NoText):
                logger.info("This network answers every class whatever is asked; the prompt chooses what is written.")
        return result

    def read(self, data: Mapping[Hashable, Any]) -> tuple[dict[Hashable, Any], Resolution]:
        """The item with all that ``__call__`` adds, and how its prompt was read, of which the log is not told."""
        result = dict(data)
        available = {self.class_set.index(name) for name in self.trained_classes}
        resolution = resolve_prompt(result["prompt"], self.class_set, available)
        indices = sorted(resolution.indices)
        known = ", ".join(self.trained_classes)
        if unlearned := [self.class_set[index].name for index in indices if index not in available]:
            raise ValueError(f"These weights were not trained on {', '.join(unlearned)}. They know: {known}.")
        asked = self.ask(indices, resolution.text)
        request = {
            "understood": resolution.titles(self.class_set),
            "structures": [[item.index, item.within, item.without] for item in resolution.structures],
            "corrections": [{"typed": typed, "read_as": word} for typed, word in resolution.corrections],
            "left_out": [self.class_set[index].name for index in resolution.left_out],
            "prompt_text": "unread" if isinstance(self.bank, NoText) else self.prompt_text,
        }
        told = {
            "asked": resolution.text,
            "sentences": "\n".join(asked["prompt"]),
            "request": json.dumps(request),  # text, because batches hold neither None nor lists of different lengths
        }
        return result | asked | told, resolution

    def ask(self, indices: Sequence[int], words: str) -> dict[Hashable, Any]:
        """How the network is asked for classes: ``prompt`` and ``named`` as ``__call__`` adds them.

        Args:
            indices: of the classes, ascending.
            words: for "raw".
        """
        if isinstance(self.bank, NoText):
            questions, sentences = [list(indices)], [""]
        elif self.prompt_text == "raw":
            questions, sentences = [list(indices)], [self._raw(indices, words, self.bank)]
        else:
            questions, sentences = self._canonical(indices, self.bank)
        named = torch.stack([class_mask(question, len(self.class_set)) for question in questions])
        return {"prompt": sentences, "named": named}

    def _canonical(self, indices: Sequence[int], bank: PromptBank) -> tuple[list[list[int]], list[str]]:
        """As few sentences as name all classes, each within ``max_classes_per_prompt`` and the encoder's context."""
        for most in range(min(self.max_classes_per_prompt, len(indices)), 0, -1):
            questions = split_evenly(indices, most)
            sentences = [write_sentence(self.class_set, question) for question in questions]
            try:
                if bank.holds(sentences):
                    return questions, sentences
                break
            except PromptTooLongError:
                if most == 1:
                    raise
        logger.warning("No text encoder here and the sentence is not in the bank: asking for each class alone.")
        return [[index] for index in indices], [class_sentence(bank, self.class_set, index) for index in indices]

    def _raw(self, indices: Sequence[int], words: str, bank: PromptBank) -> str:
        remedy = "ask in several prompts, or with --prompt_text canonical"
        if len(indices) > self.max_classes_per_prompt:
            raise PromptError(
                f"Raw text must need at most {self.max_classes_per_prompt} classes, not {len(indices)} as "
                f"{words!r:.80} does: "
                f"{remedy}."
            )
        sentence = " ".join(words.split())
        try:
            if bank.holds([sentence]):
                return sentence
        except PromptTooLongError as error:
            raise PromptTooLongError(f"{error} Raw text is never cut: {remedy}.") from error
        raise MissingPromptError(
            f"Raw text needs a text encoder, or a prompt bank that holds it; {sentence!r:.80} has neither here: choose "
            "another --text_bank, or --prompt_text canonical."
        )
