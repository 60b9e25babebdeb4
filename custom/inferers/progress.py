"""Where a long inference is."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from tqdm import tqdm

logger = logging.getLogger(__name__)


class WindowProgress:
    """A bar per volume: ``ct_02.nii.gz (2 of 7): window 12 of 36 |####    | [00:41<01:20]``.

    With several prompts, ``ct_02.nii.gz (2 of 7), prompt 3 of 13: window 12 of 36``. Where the output is no terminal, a
    line of the log when a volume starts.

    Args:
        images: paths of all volumes, in order; without them volumes are named, not counted.
    """

    def __init__(self, images: Sequence[str | Path] = ()) -> None:
        self.images = [str(image) for image in images]

    @contextmanager
    def volume(self, image: torch.Tensor, *, windows: int, prompts: int = 1) -> Iterator[Callable[[int], None]]:
        """Yield a function that is told, ``prompts`` times over, of each few windows that are done.

        Args:
            image: (B, C, H, W, D); its meta data, if any, say which file it is.
            windows: how many it is cut into.
            prompts: how often these are decoded, one prompt after the other.
        """
        name = self._name(image)
        cut = f"{windows} windows" if windows > 1 else "1 window"
        layout = "{desc} |{bar:24}| [{elapsed}<{remaining}]"
        with tqdm(
            desc=f"{name}: {cut}", total=windows * prompts, disable=idist.get_rank() > 0 or None, bar_format=layout
        ) as bar:
            if bar.disable:
                logger.info("%s: %s%s", name, f"{prompts} prompts, " if prompts > 1 else "", cut)
            done = 0

            def advance(count: int) -> None:
                nonlocal done
                done += count
                prompt, window = divmod(done - 1, windows)
                words = f", prompt {prompt + 1} of {prompts}" if prompts > 1 else ""
                bar.set_description_str(f"{name}{words}: window {window + 1} of {windows}", refresh=False)
                bar.update(count)

            yield advance

    def _name(self, image: torch.Tensor) -> str:
        meta: dict[str, Any] = getattr(image, "meta", {})
        source = meta.get("filename_or_obj", "volume")
        path = str(source if isinstance(source, str | Path) else source[0])
        if path not in self.images:
            return Path(path).name
        return f"{Path(path).name} ({self.images.index(path) + 1} of {len(self.images)})"
