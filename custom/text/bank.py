"""Prompt vectors computed once and reused."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError

from custom.text.encoders import TextEncoder, TextEncoderUnavailable
from custom.utils.files import read_safetensors, save_safetensors

FORMAT = "deep-film-prompt-bank-1"

#: Cosine similarity above which two vectors of one prompt come from the same model (half precision included).
SAME_MODEL = 0.999


#: Prompts that are encoded and remembered: a training draws ever new sentences, of some 4 kB each.
MOST_REMEMBERED = 50_000


class MissingPromptError(LookupError):
    """A prompt is not in the bank and there is no encoder to compute it with."""


class PromptBank:
    """Text vectors of one encoder, by prompt.

    A prompt found in memory or in the file costs nothing and needs no encoder; any other is encoded at first use and
    kept in memory, the latest ``MOST_REMEMBERED`` of them. ``save`` adds what memory holds to the file. Letter case and
    white space do not distinguish prompts. The file is safetensors: ``vectors`` (P, E) float32, and a header with the
    format, the encoder's id, kind and dimension, and the prompts as a JSON list.

    Args:
        path: a bank file, which need not exist yet; None keeps all in memory.
        encoder: computes missing prompts; None means that only stored prompts can be had.
        create: whether the file may be missing, to be made by ``save``.

    Raises:
        ValueError: neither path nor encoder, a file that is no prompt bank, or one of another encoder, kind or
            dimension.
        FileNotFoundError: no such file and no encoder to begin one.
    """

    def __init__(
        self, path: str | Path | None = None, encoder: TextEncoder | None = None, *, create: bool = True
    ) -> None:
        self.path = None if path is None else Path(path)
        self.encoder = encoder
        self._vectors: dict[str, torch.Tensor] = {}
        self._spelling: dict[str, str] = {}
        self._encoded: dict[str, None] = {}
        self._checked = False
        self._header: tuple[str, str, int] | None = None
        if self.path is not None and self.path.is_file():
            self._read()
        elif encoder is None or not (create or path is None):
            if self.path is None:
                raise ValueError("A prompt bank needs a file, an encoder or both; received neither.")
            raise FileNotFoundError(f"There is no prompt bank at {self.path} (--text_bank).")

    def __len__(self) -> int:
        return len(self._vectors)

    def __contains__(self, prompt: str) -> bool:
        return _key(prompt) in self._vectors

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts held, as first spelled."""
        return tuple(self._spelling.values())

    @property
    def encoder_id(self) -> str:
        """Id of the encoder the vectors come from."""
        return self._header[0] if self._header else self._need_encoder().encoder_id

    @property
    def kind(self) -> str:
        """Which of the encoder's outputs the vectors are."""
        return self._header[1] if self._header else self._need_encoder().kind

    @property
    def dimension(self) -> int:
        """E, the length of a vector."""
        return self._header[2] if self._header else self._need_encoder().dimension

    def __call__(self, prompts: str | Sequence[str]) -> torch.Tensor:
        """Vectors (P, E) float32 of P prompts, in their order; one string counts as one prompt.

        Raises:
            MissingPromptError: a prompt is not held and there is no encoder.
            TextEncoderUnavailable: the encoder's files cannot be had.
            PromptTooLongError: a prompt exceeds the encoder's context.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts:
            raise ValueError("At least one prompt is needed; received none.")
        missing = list({_key(prompt): prompt for prompt in prompts if prompt not in self}.values())
        if missing:
            if self.encoder is None:
                raise MissingPromptError(
                    f"The prompt {missing[0]!r} is not among the {len(self)} of the bank {self.path}, and no text "
                    "encoder was given to compute it."
                )
            if self._vectors and not self._checked:
                prompt, stored = next(iter(self._vectors.items()))
                self._check_same_model(prompt, stored, self.encoder([prompt])[0])
            self._checked = True
            for prompt in missing:  # alone: in a batch the last digits of a vector depend on the others
                self._add(prompt, self.encoder([prompt])[0])
                self._encoded[_key(prompt)] = None
        vectors = torch.stack([self._vectors[_key(prompt)] for prompt in prompts])
        while len(self._encoded) > MOST_REMEMBERED:
            oldest = next(iter(self._encoded))
            del self._encoded[oldest], self._vectors[oldest], self._spelling[oldest]
        return vectors

    def holds(self, prompts: Sequence[str]) -> bool:
        """Whether all these prompts can be had here, from the file or through an encoder that loads."""
        try:
            self(prompts)
        except (MissingPromptError, TextEncoderUnavailable):
            return False
        return True

    def save(self) -> None:
        """Add what memory holds to the file: written whole, and safe against other processes that do the same.

        Raises:
            ValueError: the bank has no path or no vectors, or the file has come to belong to another encoder or model.
        """
        if self.path is None:
            raise ValueError("This prompt bank lives in memory only; give it a path to save it.")
        if not self._vectors:
            raise ValueError(f"There is nothing to save to {self.path}: this prompt bank holds no vectors yet.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            if self.path.is_file():
                self._read()
            header = {
                "format": FORMAT,
                "encoder": self.encoder_id,
                "kind": self.kind,
                "dimension": str(self.dimension),
                "prompts": json.dumps(self.prompts),
            }
            save_safetensors({"vectors": torch.stack(list(self._vectors.values()))}, self.path, metadata=header)

    def _need_encoder(self) -> TextEncoder:
        if self.encoder is None:
            raise MissingPromptError(f"The prompt bank {self.path} is empty and has no encoder.")
        return self.encoder

    def _check_same_model(self, prompt: str, stored: torch.Tensor, vector: torch.Tensor) -> None:
        """Two CLIPs can share id, kind and dimension: compare two vectors of one prompt."""
        if vector.shape != stored.shape or torch.cosine_similarity(vector, stored, dim=0) < SAME_MODEL:
            raise ValueError(
                f"The prompt bank {self.path} was made by another model than the text encoder of this run: its vector "
                f"of {prompt!r} differs. Choose another --text_bank, or the --text_model that the bank came from."
            )

    def _add(self, prompt: str, vector: torch.Tensor) -> None:
        if _key(prompt) not in self._vectors:
            self._vectors[_key(prompt)] = vector
            self._spelling[_key(prompt)] = prompt

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
            held = (header["encoder"], header["kind"], int(header["dimension"]))
            prompts = json.loads(header["prompts"])
        except (KeyError, ValueError) as error:
            raise ValueError(f"{self.path} is damaged: its header cannot be read: {error!r}") from error
        if vectors.shape != (len(prompts), held[2]):
            raise ValueError(f"{self.path} is damaged: {len(prompts)} prompts but vectors {tuple(vectors.shape)}.")
        wanted = (self.encoder.encoder_id, self.encoder.kind) if self.encoder else (self._header or held)[:2]
        if wanted != held[:2]:
            raise ValueError(
                f"The prompt bank {self.path} holds vectors of encoder {held[0]!r}, kind {held[1]!r}; this run uses "
                f"{wanted[0]!r}, kind {wanted[1]!r}. They cannot be mixed: choose another --text_bank or that encoder."
            )
        if self._vectors:
            self._check_merge(prompts, vectors)
        self._header = held
        for prompt, vector in zip(prompts, vectors, strict=True):
            self._add(prompt, vector)

    def _check_merge(self, prompts: Sequence[str], vectors: torch.Tensor) -> None:
        """What memory holds and what the file has come to hold must be one model's: compare a prompt of both."""
        common = [(prompt, vector) for prompt, vector in zip(prompts, vectors, strict=True) if prompt in self]
        if common:
            prompt, vector = common[0]
            self._check_same_model(prompt, vector, self._vectors[_key(prompt)])
        elif self.encoder is not None and prompts:
            self._check_same_model(prompts[0], vectors[0], self.encoder(prompts[:1])[0])


def vectors_beside(weights: str | Path, encoder_id: str, kind: str) -> Path:
    """The file of a prompt bank that lies beside weights, if they bring one: for this encoder and kind of vectors."""
    return Path(weights).parent / f"prompts_{encoder_id}_{kind}.safetensors"


def find_vectors(weights: str | Path, encoder_id: str, kind: str | None) -> str | None:
    """The prompt bank that lies beside weights; None where there is none."""
    path = vectors_beside(weights, encoder_id, str(kind))
    return str(path) if path.is_file() else None


def _key(prompt: str) -> str:
    return " ".join(prompt.casefold().split())
