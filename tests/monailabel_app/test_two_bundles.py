"""Both FiLM bundles served by one process, the second with weights trained within a minute."""

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monailabel.client import MONAILabelClient

from custom.tools.export.bundle_folder import export_bundle
from custom.tools.export.statements import Statements
from custom.tools.phantoms.dataset import write_phantoms
from tests.helpers import ROOT
from tests.helpers.server import Server, dice, truth_of

#: Enough to learn the liver of phantoms.
SETTINGS = {
    "text_encoder": "minilm",
    "feature_size": 12,
    "network_def::window_size": 4,
    "spacing": "[6,6,6]",
    "roi_size": "[64,64,32]",
    "train::samples_per_volume": 1,
    "epoch_length": 100,
    "max_epochs": 1,
    "lr_scheduler::warmup_epochs": 0,
    "val_interval": 1,
    "learning_rate": 0.003,
    "loss::bce_weight": 3,
    "loss::bce_balance": 0.5,
    "train::crop_datasets": ["*"],
    "train::crop_ratios": [],
    "loss::smooth_nr": 1,
    "loss::dice_of_empty": False,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_each_model_predicts_by_its_own_network(studies: Path, tmp_path: Path) -> None:
    data = write_phantoms(
        tmp_path / "data", splits={"training": 6, "validation": 1}, seed=500, spacing=(6.0, 6.0, 6.0), classes=["liver"]
    ).parent
    command = [sys.executable, "-m", "monai.bundle", "run", "training"]
    command += ["--config_file", str(ROOT / "bundles" / "film2_swinunetr" / "configs" / "train.json")]
    for key, value in (SETTINGS | {"dataset_dir": data, "ckpt_dir": tmp_path, "output_dir": tmp_path}).items():
        command += [f"--{key}", str(value)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=1800)
    models = tmp_path / "server" / "app" / "model"
    server = Server(tmp_path / "server", studies, {"models": "film_swinunetr,film2_swinunetr"})
    stated = Statements.unstated("film2_swinunetr")
    export_bundle(
        ROOT / "bundles" / "film2_swinunetr", models, weights=tmp_path / "model.safetensors", statements=stated
    )
    with server:
        client = MONAILabelClient(server.address)
        masks = {}
        for name in ("film_swinunetr", "film2_swinunetr"):
            file, report = client.infer(name, "phantom_0000", {"prompt": "liver"})
            masks[name] = np.asarray(nib.load(file).dataobj) == 1
            assert report["model"]["name"] == name
            assert dice(masks[name], truth_of(studies, "phantom_0000", 6)) > 0.6, name
        assert not np.array_equal(*masks.values())
        assert server.info()["models"]["film2_swinunetr"]["labels"] == {"liver": 6}
