"""Text vectors of prompts, computed once and stored."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError

from custom.text.encoders import TextEncoder, TextEncoderUnavailable
from custom.utils.files import read_safetensors, save_safetensors

FORMAT = "deep-film-prompt-bank-1"

#: Cosine similarity above which two vectors of one prompt come from the same model (half precision included).
SAME_MODEL = 0.999

#: Most encoded prompts kept in memory: training samples ever new sentences, of about 4 kB each.
MAX_ENCODED = 50_000


class MissingPromptError(LookupError):
    """A prompt is not in the bank, and there is no encoder to compute its vector."""


class PromptBank:
    """Text vectors of one encoder, by prompt.

    A stored prompt needs no encoder; any other is encoded at first use, and the latest ``MAX_ENCODED`` of them are kept
    in memory. ``save`` adds the vectors in memory to the file. Letter case and white space do not distinguish prompts.
    The file is safetensors: ``vectors`` (P, E) float32, and a header with the format, the encoder's id, kind and
    dimension, and the prompts as a JSON list. ``encoder_id``, ``kind`` and ``dimension`` (E) say what the vectors are.

    Without ``path`` all vectors stay in memory, without ``encoder`` the bank has only stored prompts; ``create`` allows
    the file to be missing, to be created by ``save``.

    Raises:
        ValueError: neither path nor encoder, or a file that is no prompt bank of this encoder and kind.
        FileNotFoundError: no such file, and no encoder or not ``create``.
    """

    def __init__(
        self, path: str | Path | None = None, encoder: TextEncoder | None = None, *, create: bool = True
    ) -> None:
        self.path = None if path is None else Path(path)
        self.encoder = encoder
        self._entries: dict[str, tuple[str, torch.Tensor]] = {}  # key -> prompt as first spelled, vector
        self._encoded: dict[str, None] = {}  # keys, oldest first
        self._checked = False
        self.encoder_id, self.kind = ("", "") if encoder is None else (encoder.encoder_id, encoder.kind)
        if self.path is not None and self.path.is_file():
            self._read()
        elif self.path is not None and (encoder is None or not create):
            raise FileNotFoundError(f"There is no prompt bank at {self.path} (--text_bank).")
        elif encoder is None:
            raise ValueError("A prompt bank needs a file, an encoder or both; received neither.")

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, prompt: str) -> bool:
        return _key(prompt) in self._entries

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(prompt for prompt, _ in self._entries.values())

    @cached_property
    def dimension(self) -> int:
        assert self.encoder is not None, "the constructor requires a file or an encoder"
        return self.encoder.dimension

    def __call__(self, prompts: str | Sequence[str]) -> torch.Tensor:
        """Return vectors (P, E) float32 of P prompts, in their order; one string counts as one prompt.

        MissingPromptError if a prompt is not stored and there is no encoder; other errors are the encoder's.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts:
            raise ValueError("At least one prompt is needed; received none.")
        if missing := {_key(prompt): prompt for prompt in prompts if prompt not in self}:
            self._encode(list(missing.values()))
        vectors = torch.stack([self._entries[_key(prompt)][1] for prompt in prompts])
        while len(self._encoded) > MAX_ENCODED:
            oldest = next(iter(self._encoded))
            del self._encoded[oldest], self._entries[oldest]
        return vectors

    def holds(self, prompts: Sequence[str]) -> bool:
        """Whether vectors of all these prompts are available, from the file or an encoder that loads."""
        try:
            self(prompts)
        except (MissingPromptError, TextEncoderUnavailable):
            return False
        return True

    def save(self) -> None:
        """Add the vectors in memory to the file, atomically and under a lock; ValueError if it is of another model."""
        if self.path is None:
            raise ValueError("This prompt bank lives in memory only; give it a path to save it.")
        if not self._entries:
            raise ValueError(f"There is nothing to save to {self.path}: this prompt bank holds no vectors yet.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            if self.path.is_file():
                self._read()
            source = {"encoder": self.encoder_id, "kind": self.kind, "dimension": str(self.dimension)}
            header = {"format": FORMAT, **source, "prompts": json.dumps(self.prompts)}
            vectors = torch.stack([vector for _, vector in self._entries.values()])
            save_safetensors({"vectors": vectors}, self.path, metadata=header)

    def _encode(self, prompts: Sequence[str]) -> None:
        if self.encoder is None:
            rule = f"The prompt {prompts[0]!r} is not among the {len(self)} of the bank {self.path}"
            raise MissingPromptError(f"{rule}, and no text encoder was given to compute it.")
        if self._entries and not self._checked:
            prompt, stored = next(iter(self._entries.values()))
            self._check_same_model(prompt, stored, self.encoder([prompt])[0])
        self._checked = True
        for prompt in prompts:  # one by one: in a batch the last digits of a vector depend on the others
            self._entries[_key(prompt)] = (prompt, self.encoder([prompt])[0])
            self._encoded[_key(prompt)] = None

    def _check_same_model(self, prompt: str, stored: torch.Tensor, vector: torch.Tensor) -> None:
        """Compare two vectors of one prompt, for two CLIPs can share id, kind and dimension."""
        if vector.shape != stored.shape or torch.cosine_similarity(vector, stored, dim=0) < SAME_MODEL:
            raise ValueError(
                f"The prompt bank {self.path} was made by another model than the text encoder of this run: its vector "
                f"of {prompt!r} differs. Choose another --text_bank, or the --text_model that the bank came from."
            )

    def _read(self) -> None:
        """Merge the file into memory after checking that it belongs to the same encoder."""
        try:
            tensors, header = read_safetensors(str(self.path))
            if header.get("format") != FORMAT:
                raise ValueError(f"{self.path} is no prompt bank: its header says format {header.get('format')!r}.")
            vectors = tensors["vectors"]
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{self.path} is no prompt bank, or it is cut short: {error}") from error
        try:
            encoder_id, kind, dimension = header["encoder"], header["kind"], int(header["dimension"])
            prompts = json.loads(header["prompts"])
        except (KeyError, ValueError) as error:
            raise ValueError(f"{self.path} is damaged: its header cannot be read: {error!r}") from error
        if vectors.shape != (len(prompts), dimension):
            raise ValueError(f"{self.path} is damaged: {len(prompts)} prompts but vectors {tuple(vectors.shape)}.")
        if self.encoder_id and (self.encoder_id, self.kind) != (encoder_id, kind):
            raise ValueError(
                f"The prompt bank {self.path} holds vectors of encoder {encoder_id!r}, kind {kind!r}; this run uses "
                f"{self.encoder_id!r}, kind {self.kind!r}. They cannot be mixed: choose another --text_bank or that "
                "encoder."
            )
        if self._entries:  # those in memory must come from the same model
            common = [(prompt, vector) for prompt, vector in zip(prompts, vectors, strict=True) if prompt in self]
            if common:
                prompt, vector = common[0]
                self._check_same_model(prompt, vector, self._entries[_key(prompt)][1])
            elif self.encoder is not None and prompts:
                self._check_same_model(prompts[0], vectors[0], self.encoder(prompts[:1])[0])
        self.encoder_id, self.kind, self.dimension = encoder_id, kind, dimension
        for prompt, vector in zip(prompts, vectors, strict=True):
            self._entries.setdefault(_key(prompt), (prompt, vector))


def vectors_beside(weights: str | Path, encoder_id: str, kind: str) -> Path:
    """Return the path beside weights where their prompt bank of this encoder and kind of vectors would lie."""
    return Path(weights).parent / f"prompts_{encoder_id}_{kind}.safetensors"


def find_vectors(weights: str | Path, encoder_id: str, kind: str | None) -> str | None:
    """Return the path of the prompt bank beside weights; None if there is none."""
    path = vectors_beside(weights, encoder_id, str(kind))
    return str(path) if path.is_file() else None


def _key(prompt: str) -> str:
    return " ".join(prompt.casefold().split())
