"""A text vector for each class: the text bank of the Universal Model, and a text encoder that knows only classes."""

from collections.abc import Sequence
from pathlib import Path

import torch

from custom.anatomy.class_set import ClassSet
from custom.prompts.resolve import resolve_prompt
from custom.prompts.sentences import write_sentence
from custom.text.bank import PromptBank


def class_sentence(bank: PromptBank, class_set: ClassSet, index: int) -> str:
    """Return the sentence of a class (1-based) that ``bank`` holds ("... of a Arota" in public ones) or canonical."""
    item = class_set[index]
    canonical = write_sentence(class_set, [index])
    public = [class_set.class_sentence.format(name=name) for name in (item.name, *item.synonyms, *item.aliases)]
    return next((sentence for sentence in (canonical, *public) if sentence in bank), canonical)


def class_vectors(bank: PromptBank, class_set: ClassSet) -> torch.Tensor:
    """Vectors (K, E) float32 of the sentences of K classes in order; errors are those of the bank."""
    return bank([class_sentence(bank, class_set, index) for index in range(1, len(class_set) + 1)])


class ClassMeanEncoder:
    """A text encoder whose vector of a sentence is the mean vector of the classes that it names.

    A control: compared with it, an experiment shows what a language model adds. Each of K classes has a vector, scaled
    to root mean square 1. `vectors` is

    - "onehot": E = K, 1 for the class and 0 elsewhere;
    - "random": E = 384, normally distributed, from a fixed seed;
    - the path of a prompt bank (.safetensors): the vector of the sentence of the class.
    """

    kind = "class mean"

    def __init__(self, class_set: ClassSet, vectors: str) -> None:
        self.class_set, self.encoder_id = class_set, vectors
        if vectors == "onehot":
            rows = torch.eye(len(class_set))
        elif vectors == "random":
            rows = torch.randn(len(class_set), 384, generator=torch.Generator().manual_seed(0))
        elif Path(vectors).is_file():
            bank = PromptBank(vectors)
            rows, self.encoder_id = class_vectors(bank, class_set), bank.encoder_id
        else:
            raise ValueError(f"vectors must be 'onehot', 'random' or the file of a prompt bank, not {vectors!r}.")
        self.rows = rows / rows.square().mean(1, keepdim=True).sqrt()
        self.dimension = rows.shape[1]

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """Encode P sentences into (P, E) float32: PromptError for one not understood, zeros for the default prompt."""
        return torch.stack([self._mean(prompt) for prompt in prompts])

    def _mean(self, prompt: str) -> torch.Tensor:
        if prompt == self.class_set.default_prompt:
            return torch.zeros(self.dimension)
        named = sorted(resolve_prompt(prompt, self.class_set).indices)
        return self.rows[[index - 1 for index in named]].mean(0)
