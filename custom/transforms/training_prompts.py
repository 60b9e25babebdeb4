"""What a network is asked in training and in validation, and the vectors of what it is asked."""

import zlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform

from custom.anatomy.class_set import ClassSet
from custom.datasets.labels import UNASKED
from custom.prompts.request import MAX_CLASSES, PROMPT_TEXTS, class_mask, split_evenly
from custom.prompts.sampling import held_out_sentence, sample_sentence
from custom.prompts.sentences import write_sentence
from custom.text.bank import PromptBank
from custom.text.no_text import NoText
from custom.transforms.labels import labelled_classes

#: What evaluation may ask in: those, and phrases and templates that training never draws.
WORDINGS = (*PROMPT_TEXTS, "held out")

#: What validation asks: each labelled class alone and then all together, or only all together.
REQUESTS = ("per_class", "dataset")

#: Up to this many classes a training sentence may use synonyms; beyond, only canonical names fit CLIP's 77 tokens.
MAX_CLASSES_WITH_SYNONYMS = 6


class SamplePromptd(RandomizableTransform, MapTransform):
    """Ask for some of the labelled classes of a crop, and let the target answer exactly that.

    With ``policy="sampled"``: draws a non-empty subset of the labelled classes, writes a sentence that names it
    (templates, synonyms), and turns the ones of the labelled but unnamed channels into UNASKED, to which the loss wants
    the answer 0: the network learns to answer what was asked. Sizes n = 1..max_classes are drawn with weight 1/n;
    classes with voxels in the crop are ``present_weight`` times as likely as others; with ``dataset_probability`` the
    data set's own sentence is used. With ``both_probability`` paired organs are asked for on both sides, as users do
    ("both kidneys"), which chance alone would seldom draw.
    With ``policy="dataset"``: always the data set's sentence, target untouched (for networks without text).

    Adds ``prompt`` (the sentence) and ``named`` (K,) bool.

    Args:
        keys: the target (K, H, W, D) of 0, 1 and UNKNOWN.
        class_set: the K classes.
        policy: "sampled" or "dataset".
        max_classes_per_prompt: most classes that one sentence names.
        dataset_probability: how often the whole data set is asked for, in [0, 1].
        present_weight: at least 1.
        both_probability: how often the other sides of the classes drawn are asked for too, in [0, 1].
    """

    def __init__(
        self,
        keys: KeysCollection,
        class_set: ClassSet,
        *,
        policy: str = "sampled",
        max_classes_per_prompt: int = MAX_CLASSES,
        dataset_probability: float = 0.1,
        present_weight: float = 4.0,
        both_probability: float = 0.5,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        if policy not in ("sampled", "dataset"):
            raise ValueError(f"prompt_policy must be 'sampled' or 'dataset', not {policy!r}.")
        shares = (dataset_probability, both_probability)
        if max_classes_per_prompt < 1 or present_weight < 1 or not all(0 <= share <= 1 for share in shares):
            raise ValueError(
                "max_classes and present_weight must be at least 1 and dataset_probability and both_probability in "
                f"[0, 1], not {max_classes_per_prompt}, {present_weight}, {dataset_probability}, {both_probability}."
            )
        self.class_set = class_set
        self.policy = policy
        self.max_classes_per_prompt = max_classes_per_prompt
        self.dataset_probability = dataset_probability
        self.present_weight = present_weight
        self.both_probability = both_probability

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            target = result[key]
            labelled = labelled_classes(target)
            if self.policy == "dataset":
                chosen = labelled
                sentence = write_sentence(self.class_set, chosen)
            else:
                chosen, sentence = self._draw(target, labelled)
                unnamed = [index - 1 for index in labelled if index not in chosen]
                result[key] = target.clone()
                result[key][unnamed] *= UNASKED
            result["prompt"] = sentence
            result["named"] = class_mask(chosen, len(self.class_set))
        return result

    def _draw(self, target: torch.Tensor, labelled: Sequence[int]) -> tuple[list[int], str]:
        most = min(self.max_classes_per_prompt, len(labelled))
        if self.R.random_sample() < self.dataset_probability:
            chunks = split_evenly(labelled, self.max_classes_per_prompt)
            chosen = list(chunks[self.R.randint(len(chunks))])
            return chosen, write_sentence(self.class_set, chosen)
        weights = 1 / np.arange(1, most + 1)
        count = 1 + self.R.choice(most, p=weights / weights.sum())
        present = (target[[index - 1 for index in labelled]] == 1).flatten(1).any(1).tolist()
        weights = np.where(present, self.present_weight, 1.0)
        chosen = self.R.choice(labelled, size=count, replace=False, p=weights / weights.sum()).tolist()
        if self.R.random_sample() < self.both_probability:
            others = [self.class_set.opposite(index) for index in chosen]
            chosen = list(dict.fromkeys([*chosen, *(other for other in others if other in labelled)]))[:most]
        if len(chosen) <= MAX_CLASSES_WITH_SYNONYMS:
            return chosen, sample_sentence(self.class_set, chosen, self.R)
        return chosen, write_sentence(self.class_set, chosen)


class ValidationPromptsd(MapTransform):
    """The fixed requests of validation: each labelled class alone, then the data set's sentence.

    A data set of more than ``max_classes_per_prompt`` classes is asked for in several sentences. Adds ``prompt`` (P
    sentences), ``named`` (P, K) bool and ``prompt_text`` (P, of ``WORDINGS``).
    A network that does not read the prompt is asked for the "dataset" alone, once: it says the same whatever is asked.

    Args:
        keys: the target (K, H, W, D) of 0, 1 and UNKNOWN.
        class_set: the K classes.
        max_classes_per_prompt: most classes that one sentence names.
        requests: "per_class" or "dataset".
        prompt_texts: which wordings to ask in. "canonical": the sentence that ``PromptParser`` sends by default.
            "raw": as a user might type it, a random template and random synonyms, the same for a case every time.
            "held out": as "raw", of the templates and phrases that the class set holds out of training.
    """

    def __init__(
        self,
        keys: KeysCollection,
        class_set: ClassSet,
        *,
        max_classes_per_prompt: int = MAX_CLASSES,
        requests: str = "per_class",
        prompt_texts: Sequence[str] = ("canonical",),
    ) -> None:
        super().__init__(keys)
        if requests not in REQUESTS:
            raise ValueError(f"requests must be one of {list(REQUESTS)}, not {requests!r}.")
        if not prompt_texts or not set(prompt_texts) <= set(WORDINGS):
            raise ValueError(f"prompt_texts must be some of {list(WORDINGS)}, not {list(prompt_texts)}.")
        if "held out" in prompt_texts and not all((class_set.held_out_templates, *(c.held_out for c in class_set))):
            raise ValueError(
                f"prompt_texts may hold 'held out' where the class set holds out templates (`held_out_templates`) and "
                f"phrases of every class (`held_out`); {class_set.name!r} does not: add them to its file."
            )
        self.class_set = class_set
        self.max_classes_per_prompt = max_classes_per_prompt
        self.requests = requests
        self.prompt_texts = tuple(prompt_texts)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            labelled = labelled_classes(result[key])
            source = result[key].meta.get("filename_or_obj", "") if isinstance(result[key], MetaTensor) else ""
            asked: list[tuple[str, list[int], str]] = []
            for wording in self.prompt_texts:
                drawn = f"{'' if wording == 'raw' else wording}{Path(str(source)).name}"
                random = np.random.RandomState(zlib.crc32(drawn.encode()))  # each wording's the same beside any others
                most = (
                    self.max_classes_per_prompt
                    if wording == "canonical"
                    else min(self.max_classes_per_prompt, MAX_CLASSES_WITH_SYNONYMS)
                )
                if self.requests == "dataset":
                    parts = [labelled]
                else:
                    together = [part for part in split_evenly(labelled, most) if len(part) > 1]
                    parts = [[index] for index in labelled] + together
                for question in parts:
                    if wording == "canonical":
                        sentence = write_sentence(self.class_set, question)
                    elif wording == "raw":
                        sentence = sample_sentence(self.class_set, question, random)
                    else:
                        sentence = held_out_sentence(self.class_set, question, random)
                    asked.append((wording, question, sentence))
            result["prompt_text"] = [wording for wording, _, _ in asked]
            result["named"] = torch.stack([class_mask(question, len(self.class_set)) for _, question, _ in asked])
            result["prompt"] = [sentence for _, _, sentence in asked]
        return result


class EncodePromptd(MapTransform):
    """Sentences -> text vectors: adds ``text``, (E,) for one sentence or (P, E) for a list of P, float32.

    Args:
        keys: the prompt, a string or a list of strings.
        bank: where vectors come from.
    """

    def __init__(self, keys: KeysCollection, bank: PromptBank | NoText) -> None:
        super().__init__(keys)
        self.bank = bank

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            prompt = result[key]
            vectors = self.bank(prompt)
            result["text"] = vectors[0] if isinstance(prompt, str) else vectors
        return result
