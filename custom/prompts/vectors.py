"""A text vector for each class: the text bank of the Universal Model, and a text encoder that knows only classes."""

from collections.abc import Sequence
from pathlib import Path

import torch

from custom.anatomy.class_set import ClassSet
from custom.prompts.resolve import resolve_prompt
from custom.prompts.sentences import write_sentence
from custom.text.bank import PromptBank


def class_sentence(bank: PromptBank, class_set: ClassSet, index: int) -> str:
    """Return the sentence of one class (1-based) that ``bank`` holds, else the canonical one.

    Public banks hold "... of a Arota" for the canonical "... of aorta".
    """
    item = class_set[index]
    canonical = write_sentence(class_set, [index])
    public = [class_set.class_sentence.format(name=name) for name in (item.name, *item.synonyms)]
    return next((sentence for sentence in (canonical, *public) if sentence in bank), canonical)


def class_vectors(bank: PromptBank, class_set: ClassSet) -> torch.Tensor:
    """Vectors (K, E) float32 of the sentences of K classes, in the order of the class set.

    Raises:
        MissingPromptError: the bank holds no sentence of a class, and has no encoder.
    """
    return bank([class_sentence(bank, class_set, index) for index in range(1, len(class_set) + 1)])


class ClassMeanEncoder:
    """A text encoder whose vector of a sentence is the mean vector of the classes that it names.

    A control: compared with it, an experiment shows what a language model adds. Each class has a vector, scaled to root
    mean square 1:

    - "onehot": E = K, 1 for the class and 0 elsewhere;
    - "random": E = 384, normally distributed, from a fixed seed;
    - the file of a prompt bank: the vector of the sentence of the class.

    Args:
        class_set: the K classes.
        vectors: "onehot", "random", or the path of a prompt bank (.safetensors).
    """

    RANDOM_DIMENSION = 384

    def __init__(self, class_set: ClassSet, vectors: str) -> None:
        self.class_set = class_set
        if vectors == "onehot":
            rows, self.encoder_id = torch.eye(len(class_set)), vectors
        elif vectors == "random":
            generator = torch.Generator().manual_seed(0)
            rows, self.encoder_id = torch.randn(len(class_set), self.RANDOM_DIMENSION, generator=generator), vectors
        elif Path(vectors).is_file():
            bank = PromptBank(vectors)
            rows, self.encoder_id = class_vectors(bank, class_set), bank.encoder_id
        else:
            raise ValueError(f"vectors must be 'onehot', 'random' or the file of a prompt bank, not {vectors!r}.")
        self.rows = rows / rows.square().mean(1, keepdim=True).sqrt()
        self.kind = "class mean"
        self.dimension = rows.shape[1]

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """Encode P sentences into (P, E) float32; a sentence that names no class, such as the default prompt, is zeros.

        Raises:
            PromptError: a sentence that cannot be understood, other than the class set's default prompt.
        """
        return torch.stack([self._mean(prompt) for prompt in prompts])

    def _mean(self, prompt: str) -> torch.Tensor:
        if prompt == self.class_set.default_prompt:
            return torch.zeros(self.dimension)
        named = sorted(resolve_prompt(prompt, self.class_set).indices)
        return self.rows[[index - 1 for index in named]].mean(0)
