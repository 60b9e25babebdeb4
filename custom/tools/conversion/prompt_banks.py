"""Banks of prompt vectors of other codes, read without running what a pickle may hold."""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from custom.anatomy.class_set import ClassSet
from custom.text.bank import MissingPromptError

#: First bytes of torch files from before 2020; newer ones are zip archives.
_OLD_TORCH = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)


class GivenVectors:
    """A text encoder that returns given vectors (prompt -> vector (E,), at least one), and knows no other prompts."""

    def __init__(self, vectors: Mapping[str, torch.Tensor], *, encoder_id: str, kind: str) -> None:
        self.vectors, self.encoder_id, self.kind = vectors, encoder_id, kind
        self.dimension = len(next(iter(vectors.values())))

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """Vectors (P, E) of P prompts; MissingPromptError where one was not given."""
        if unknown := [prompt for prompt in prompts if prompt not in self.vectors]:
            raise MissingPromptError(
                f"{unknown[0]!r} is in the existing bank and not among the {len(self.vectors)} prompts given, which "
                "have none in common with it: nothing shows that one model made both. Write to a new file."
            )
        return torch.stack([self.vectors[prompt] for prompt in prompts])


def read_old_bank(path: str | Path, class_set: ClassSet) -> dict[str, torch.Tensor]:
    """Read a prompt bank of another code: prompt -> vector (E,), float32 on the CPU.

    Args:
        path: an .npz with ``prompts`` and ``embeddings``, or a pickle (``pickle.dump`` or ``torch.save``) of either
            {prompt: tensor (E,) or (1, E)} or one tensor (K, E), a row for each class.
        class_set: its K classes and ``class_sentence`` name the rows of a (K, E) tensor.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, one that holds anything but prompts and tensors (nothing in it is run), vectors of
            another rank or of several lengths, NaN, or two vectors of one prompt.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no prompt bank at {path} (--source).")
    content = _read_npz(path) if path.suffix == ".npz" else _read_pickle(path)
    if isinstance(content, torch.Tensor):
        if content.ndim != 2 or len(content) != len(class_set):
            raise ValueError(
                f"A bank of one tensor must have a row for each of the {len(class_set)} classes of "
                f"{class_set.name!r}; {path} has the shape {tuple(content.shape)}. Pass its --class_set."
            )
        sentences = [class_set.class_sentence.format(name=name) for name in class_set.names]
        content = dict(zip(sentences, content, strict=True))
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} must hold prompts and their vectors, not {type(content).__name__}.")
    vectors: dict[str, torch.Tensor] = {}
    spelled: dict[str, str] = {}
    for prompt, value in content.items():
        vector = _vector(path, prompt, value)
        first = spelled.setdefault(" ".join(prompt.casefold().split()), prompt)
        if not torch.equal(vectors.setdefault(first, vector), vector):
            raise ValueError(
                f"{path} holds two vectors of {first!r} and {prompt!r}, which are one prompt to a bank: letter case "
                "and white space do not count. Remove one."
            )
    if len(lengths := {len(vector) for vector in vectors.values()}) > 1:
        raise ValueError(f"The vectors of {path} must have one length, not {sorted(lengths)}: separate the encoders.")
    return vectors


def _vector(path: Path, prompt: Any, value: Any) -> torch.Tensor:
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"The keys of {path} must be prompts, not {prompt!r:.80}.")
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"{path} must hold floating-point tensors; that of {prompt!r} is {kind}.")
    if value.ndim not in (1, 2) or (value.ndim == 2 and value.shape[0] != 1) or not value.numel():
        raise ValueError(f"A vector must be (E,) or (1, E); that of {prompt!r} in {path} is {tuple(value.shape)}.")
    vector = value.detach().float().flatten().clone()
    if not vector.isfinite().all():
        raise ValueError(f"{path} holds NaN or infinity in the vector of {prompt!r}: compute it again.")
    return vector


def _read_npz(path: Path) -> dict[str, torch.Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            prompts, embeddings = arrays["prompts"], arrays["embeddings"]
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} must be an .npz of the arrays `prompts` and `embeddings`: {error}") from error
    if prompts.ndim != 1 or prompts.dtype.kind != "U" or embeddings.ndim != 2 or len(prompts) != len(embeddings):
        raise ValueError(
            f"{path} must hold prompts (P,) of text and embeddings (P, E), not {prompts.dtype} {prompts.shape} and "
            f"{embeddings.shape}."
        )
    if len(set(prompts.tolist())) < len(prompts):
        raise ValueError(f"{path} must hold each prompt once; it holds {len(prompts)} prompts, some of them twice.")
    return dict(zip(prompts.tolist(), torch.from_numpy(embeddings), strict=True))


def _read_pickle(path: Path) -> Any:
    content = path.read_bytes()
    try:
        if zipfile.is_zipfile(path) or content.startswith(_OLD_TORCH):
            return _load_tensors(content)
        return _TensorUnpickler(io.BytesIO(content)).load()
    except Exception as error:  # invalid pickles raise nearly any exception
        raise ValueError(
            f"{path} holds more than prompts and tensors, or is damaged, and nothing in it was run: {error}"
        ) from error


class _TensorUnpickler(pickle.Unpickler):
    """Rebuilds plain tensors by functions of its own, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
            ("torch.storage", "_load_from_bytes"): _load_tensors,
            ("collections", "OrderedDict"): OrderedDict,
            ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # bytes, in protocols 0 to 2
        }
        if (module, name) not in known:
            raise ValueError(f"it names {module}.{name}, which is no tensor, dict or text; it was refused")
        return known[module, name]


def _load_tensors(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _rebuild(storage: Any, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Any:
    """A tensor on a loaded storage, without gradient and hooks."""
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())  # type: ignore[no-untyped-call]
