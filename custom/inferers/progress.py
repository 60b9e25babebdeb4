"""Progress of a long inference."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ignite.distributed as idist
import torch
from tqdm import tqdm

logger = logging.getLogger(__name__)

Advance = Callable[[int], None]  # takes the number of windows just finished


class WindowProgress:
    """A bar per volume: ``ct_02.nii.gz (2 of 7): window 12 of 36 |####    | [00:41<01:20]``.

    With several prompts, ``ct_02.nii.gz (2 of 7), prompt 3 of 13: window 12 of 36``. Without a terminal, one line per
    volume is logged. Without ``images``, the paths of all volumes in order, volumes are named but not counted.
    """

    def __init__(self, images: Sequence[str | Path] = ()) -> None:
        self.images = [str(image) for image in images]

    @contextmanager
    def volume(self, image: torch.Tensor, *, windows: int, prompts: int = 1) -> Iterator[Advance]:
        """Yield a function to call with the number of windows just finished.

        The metadata of ``image`` (B, C, H, W, D) may name its file. All windows are decoded under one prompt after the
        other.
        """
        name = self._name(image)
        plural = f"{windows} windows" if windows > 1 else "1 window"
        look = {"disable": idist.get_rank() > 0 or None, "bar_format": "{desc} |{bar:24}| [{elapsed}<{remaining}]"}
        with tqdm(desc=f"{name}: {plural}", total=windows * prompts, **look) as bar:
            if bar.disable:
                logger.info("%s: %s%s", name, f"{prompts} prompts, " if prompts > 1 else "", plural)

            def advance(count: int) -> None:
                prompt, window = divmod(bar.n + count - 1, windows)
                which = f", prompt {prompt + 1} of {prompts}" if prompts > 1 else ""
                bar.set_description_str(f"{name}{which}: window {window + 1} of {windows}", refresh=False)
                bar.update(count)

            yield advance

    def _name(self, image: torch.Tensor) -> str:
        source = getattr(image, "meta", {}).get("filename_or_obj", "volume")
        path = str(source if isinstance(source, str | Path) else source[0])
        if path not in self.images:
            return Path(path).name
        return f"{Path(path).name} ({self.images.index(path) + 1} of {len(self.images)})"
