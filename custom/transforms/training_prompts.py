"""Prompts of training and validation, and their text vectors."""

import zlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

from custom.anatomy.class_set import ClassSet
from custom.datasets.labels import UNNAMED
from custom.prompts.request import MAX_CLASSES, PROMPT_TEXTS, class_mask, split_evenly
from custom.prompts.sampling import held_out_sentence, sample_sentence
from custom.prompts.sentences import write_sentence
from custom.text.bank import PromptBank
from custom.text.no_text import NoText
from custom.transforms.labels import labelled_classes

WORDINGS = (*PROMPT_TEXTS, "held out")  #: of evaluation; the last are phrases and templates that training never draws
MAX_CLASSES_WITH_SYNONYMS = 6  #: in one sentence; with more, only canonical names fit CLIP's 77 tokens


class SamplePromptd(RandomizableTransform, MapTransform):
    """Draw a prompt for some of the labelled classes of a crop, and adapt the target to it.

    With ``policy="sampled"``: draws a non-empty subset of the labelled classes and a sentence for it (templates,
    synonyms), and replaces the ones of the other labelled channels by UNNAMED, for which the loss expects 0: the
    network learns to segment what is requested. Sizes n = 1..max_classes_per_prompt are drawn with weight 1/n; classes
    with voxels in the crop are ``present_weight`` (at least 1) times as likely as others. With ``dataset_probability``
    the prompt is the data set's sentence instead. With ``both_probability`` paired organs are requested on both sides,
    as users do ("both kidneys"), which independent draws rarely give.
    With ``policy="dataset"``: always the data set's sentence and an unchanged target (for networks without text).

    The key is the target (K, H, W, D) of 0, 1 and UNKNOWN. Adds ``prompt`` (the sentence) and ``named`` (K,) bool.
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
        probabilities = (dataset_probability, both_probability)
        if max_classes_per_prompt < 1 or present_weight < 1 or not all(0 <= p <= 1 for p in probabilities):
            raise ValueError(
                "max_classes_per_prompt and present_weight must be at least 1 and dataset_probability and "
                f"both_probability in [0, 1], not {max_classes_per_prompt}, {present_weight}, {dataset_probability}, "
                f"{both_probability}."
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
                chosen, sentence = labelled, write_sentence(self.class_set, labelled)
            else:
                chosen, sentence = self._draw(target, labelled)
                unnamed = [index - 1 for index in labelled if index not in chosen]
                result[key] = target.clone()
                result[key][unnamed] *= UNNAMED
            result |= {"prompt": sentence, "named": class_mask(chosen, len(self.class_set))}
        return result

    def _draw(self, target: torch.Tensor, labelled: Sequence[int]) -> tuple[list[int], str]:
        most = min(self.max_classes_per_prompt, len(labelled))
        if self.R.random_sample() < self.dataset_probability:
            chunks = split_evenly(labelled, self.max_classes_per_prompt)
            chosen = chunks[self.R.randint(len(chunks))]
            return chosen, write_sentence(self.class_set, chosen)
        weights = 1 / np.arange(1, most + 1)
        count = 1 + self.R.choice(most, p=weights / weights.sum())
        present = (target[[index - 1 for index in labelled]] == 1).flatten(1).any(1).tolist()
        weights = np.where(present, self.present_weight, 1.0)
        chosen = self.R.choice(labelled, size=count, replace=False, p=weights / weights.sum()).tolist()
        if self.R.random_sample() < self.both_probability:
            others = [self.class_set.opposite(index) for index in chosen]
            chosen = list(dict.fromkeys([*chosen, *(other for other in others if other in labelled)]))[:most]
        if len(chosen) > MAX_CLASSES_WITH_SYNONYMS:
            return chosen, write_sentence(self.class_set, chosen)
        return chosen, sample_sentence(self.class_set, chosen, self.R)


class ValidationPromptsd(MapTransform):
    """The fixed prompts of validation: each labelled class alone, then all together.

    The key is the target (K, H, W, D) of 0, 1 and UNKNOWN. Adds ``prompt`` (P sentences), ``named`` (P, K) bool and
    ``prompt_text`` (P, of ``WORDINGS``).

    Args:
        max_classes_per_prompt: most classes in one sentence; more are requested in several.
        requests: "per_class", or "dataset" for all together in one prompt, for a network that does not read it.
        prompt_texts: wordings. "canonical": the sentence that ``PromptParser`` writes by default. "raw": as a user
            might type it, with a random template and synonyms, always the same for a case. "held out": as "raw", with
            the templates and phrases that the class set holds out of training.
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
        if requests not in ("per_class", "dataset"):
            raise ValueError(f"requests must be one of ['per_class', 'dataset'], not {requests!r}.")
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
            case = Path(str(getattr(result[key], "meta", {}).get("filename_or_obj", ""))).name
            result |= {"prompt": [], "prompt_text": []}
            named = []
            for wording in self.prompt_texts:
                requests, sentences = self._prompts(wording, labelled, case)
                named += [class_mask(request, len(self.class_set)) for request in requests]
                result["prompt"] += sentences
                result["prompt_text"] += [wording] * len(requests)
            result["named"] = torch.stack(named)
        return result

    def _prompts(self, wording: str, labelled: list[int], case: str) -> tuple[list[list[int]], list[str]]:
        """Classes and sentence of each prompt of one wording; random ones depend on wording and case alone."""
        most = self.max_classes_per_prompt
        if wording != "canonical":
            most = min(most, MAX_CLASSES_WITH_SYNONYMS)
        requests = [labelled]
        if self.requests == "per_class":
            together = [part for part in split_evenly(labelled, most) if len(part) > 1]
            requests = [[index] for index in labelled] + together
        if wording == "canonical":
            return requests, [write_sentence(self.class_set, request) for request in requests]
        random = np.random.RandomState(zlib.crc32(f"{'' if wording == 'raw' else wording}{case}".encode()))
        write = sample_sentence if wording == "raw" else held_out_sentence
        return requests, [write(self.class_set, request, random) for request in requests]


class EncodePromptd(MapTransform):
    """Sentences -> text vectors: adds ``text``, (E,) for one sentence or (P, E) for a list of P, float32."""

    def __init__(self, keys: KeysCollection, bank: PromptBank | NoText) -> None:
        super().__init__(keys)
        self.bank = bank

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            vectors = self.bank(result[key])
            result["text"] = vectors[0] if isinstance(result[key], str) else vectors
        return result
