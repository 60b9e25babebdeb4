"""One exported bundle for all tests of the export; those that change it copy it first."""

from pathlib import Path

import pytest

from custom.tools.export.bundle_folder import export_bundle
from tests.helpers import BUNDLES


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_bundle(BUNDLES / "film_swinunetr", tmp_path_factory.mktemp("dist"))
