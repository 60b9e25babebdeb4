"""A bundle's way to a stranger: served, downloaded, installed and run without the repository, with the same answers."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import nibabel as nib
import numpy as np
from safetensors.torch import load_file

from custom.bundle.root import BundleError, existing_settings
from custom.tools.export.archive import add_large_files, bundle_of_zip
from custom.tools.export.isolated import loaded_answer
from custom.tools.export.verification import Finding, find
from custom.tools.phantoms.dataset import write_phantoms
from custom.weights.header import read_header
from custom.weights.volume import training_settings

#: Asked of both: of the vectors that the bundle brings, while the repository encodes its sentence.
PROMPT = "both kidneys"

#: For whether training runs and does the same, not for what it learns.
TWO_STEPS = ("--max_epochs", "1", "--iterations_per_epoch", "2", "--val_interval", "1")

#: Variables of a shell that knows nothing of the repository.
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}


def round_trip(archive: Path, *, house: Path, work: Path) -> Iterator[Finding]:
    """Fetch a zip as strangers do, and compare what the bundle answers there with what it answers in the repository.

    Each step is yielded as it ends; after a fault the later steps are left out.

    Args:
        archive: what ``custom.tools.export.archive.zip_bundle`` wrote, with the exported folder beside it.
        house: the repository.
        work: for the clean environment, which is kept, and everything else.
    """
    name = bundle_of_zip(archive)
    work.mkdir(parents=True, exist_ok=True)
    trip = EndToEndCheck(archive, name, house, work)
    for step in (trip.install, trip.download, trip.load, trip.infer, trip.evaluate, trip.train):
        yield (found := find(step))
        if found.fault is not None:
            return


class EndToEndCheck:
    """The steps of one round trip, each of which needs those before it; ``python`` runs the downloaded bundle."""

    def __init__(self, archive: Path, name: str, house: Path, work: Path) -> None:
        self.archive, self.name, self.house = archive.resolve(), name, house.resolve()
        self.work = work.resolve()
        self.fetched = self.work / "downloaded" / name
        self.data = self.work / "data"
        self.python = Path()

    def install(self) -> None:
        """Round trip: the bundle's requirements install into an empty environment."""
        with zipfile.ZipFile(self.archive) as archive:
            lists = {name: archive.read(f"{self.name}/{name}") for name in ("requirements.txt", "constraints.txt")}
        environment = self.work / f"venv-{hashlib.sha256(b''.join(lists.values())).hexdigest()[:12]}"
        self.python = environment / "bin" / "python"
        whole = environment / "whole"
        if not whole.is_file():
            _run([sys.executable, "-m", "venv", "--clear", str(environment)], self.work, CLEAN)
            for name, content in lists.items():
                (environment / name).write_bytes(content)
            pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
            self._clean(*pip, "-r", "requirements.txt", "-c", "constraints.txt", cwd=environment)
            whole.touch()  # last: an interrupted installation is begun again
        self._clean("-m", "pip", "check", cwd=self.work)
        if _attempt([str(self.python), "-c", "import custom"], self.work, CLEAN).returncode == 0:
            raise BundleError(f"the environment {environment} holds a package custom of its own: remove it")

    def download(self) -> None:
        """Round trip: monai.bundle download fetches it over HTTP."""
        for leftover in ("downloaded", "answers"):  # MONAI keeps what it finds, and would check an older bundle
            shutil.rmtree(self.work / leftover, ignore_errors=True)
        write_phantoms(self.data, seed=50, spacing=(6.0, 6.0, 6.0), splits={"training": 1, "validation": 1, "test": 1})
        with _served(self.archive.parent) as address:
            self._clean(
                *("-m", "monai.bundle", "download", "--name", self.name, "--bundle_dir", str(self.fetched.parent)),
                *("--url", f"{address}/{self.archive.name}"),
                cwd=self.work,
            )
        if not (self.fetched / "configs" / "metadata.json").is_file():
            raise BundleError(f"the download made no folder {self.fetched}")
        add_large_files(self.fetched, self.archive.parent / self.name)  # their addresses are not published yet

    def load(self) -> None:
        """Round trip: monai.bundle.load gives a network that answers as it does in the repository's environment."""
        there = loaded_answer(self.fetched, self.work / "there.pt", python=str(self.python))
        here = loaded_answer(self.fetched, self.work / "here.pt")
        if not there.equal(here):
            raise BundleError(
                f"the logits differ from the repository's by up to {float((there - here).abs().max()):.2g}"
            )

    def infer(self) -> None:
        """Round trip: inference from a prompt gives the masks that it gives in the repository."""
        question = ("--image", str(self.data / "images" / "phantom_0002.nii.gz"), "--prompt", PROMPT)
        there, here = self._both("inference", ["inference"], "infer", *question)
        masks = sorted(path.relative_to(there) for path in there.rglob("*.nii.gz"))
        if not masks:
            raise BundleError(f"inference wrote no masks to {there}")
        for mask in masks:
            if not np.array_equal(nib.load(there / mask).dataobj, nib.load(here / mask).dataobj):
                raise BundleError(f"the mask {mask} differs from the repository's: {there}, {here}")

    def evaluate(self) -> None:
        """Round trip: evaluation gives the scores that it gives in the repository."""
        there, here = self._both("evaluating", ["train", "evaluate"], "evaluate", "--dataset_dir", str(self.data))
        scores = [json.loads((folder / "scores.json").read_text(encoding="utf-8")) for folder in (there, here)]
        if scores[0] != scores[1] or not scores[0]:
            raise BundleError(f"the scores differ from the repository's: {there}/scores.json, {here}/scores.json")

    def train(self) -> None:
        """Round trip: two steps of training give the weights that it gives in the repository."""
        config = json.loads((self.fetched / "configs" / "train.json").read_text(encoding="utf-8"))
        header = read_header(self.fetched / "models" / "model.safetensors")
        sizes = [
            part
            for setting, value in existing_settings(config, training_settings(header)).items()
            if value is not None
            for part in (f"--{setting}", _argument(value))
        ]
        data = ("--dataset_dir", str(self.data), *TWO_STEPS)
        there, here = self._both("training", ["train"], "train", *data, in_the_house=sizes)
        states = [load_file(folder / "models" / "model.safetensors") for folder in (there, here)]
        theirs, ours = states
        if differing := sorted(
            name
            for name in theirs | ours
            if name not in theirs or name not in ours or not theirs[name].equal(ours[name])
        ):
            raise BundleError(
                f"{len(differing)} tensors differ from the repository's, first {differing[0]}: {there}, {here}"
            )

    def _both(
        self, workflow: str, configs: list[str], label: str, *arguments: str, in_the_house: list[str] | None = None
    ) -> tuple[Path, Path]:
        """Run a workflow of the downloaded bundle and of the repository's; return the two folders that they wrote."""
        there, here = self.work / "answers" / label / "downloaded", self.work / "answers" / label / "repository"
        weights = [] if workflow == "training" else ["--overwrite", "True"] * (workflow == "inference")
        for folder, root, run in (
            (there, self.fetched, self._clean),
            (here, self.house / "bundles" / self.name, self._at_home),
        ):
            files = [f"configs/{config}.json" for config in configs]
            told = ["--output_dir", str(folder)]
            if workflow == "training":
                told += ["--ckpt_dir", str(folder / "models"), "--resume", "False"]
            elif root != self.fetched:
                alone = self.work / "answers" / "model.safetensors"  # no vectors lie beside it
                shutil.copyfile(self.fetched / "models" / "model.safetensors", alone)
                told += ["--weights", str(alone)]
            run(
                *("-m", "monai.bundle", "run", workflow, "--config_file", str(files) if len(files) > 1 else files[0]),
                *arguments,
                *told,
                *weights,
                *((in_the_house or []) if root != self.fetched else []),
                cwd=root,
            )
        return there, here

    def _clean(self, *arguments: str, cwd: Path) -> None:
        _run([str(self.python), *arguments], cwd, CLEAN)

    def _at_home(self, *arguments: str, cwd: Path) -> None:
        _run([sys.executable, *arguments], cwd, os.environ | {"PYTHONPATH": str(self.house)})


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP on this computer only; yields the address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _argument(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _attempt(command: list[str], cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def _run(command: list[str], cwd: Path, environment: dict[str, str]) -> None:
    done = _attempt(command, cwd, environment)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing said").splitlines()[-1]
        raise BundleError(f"{' '.join(command[:6])} ... ended with {done.returncode}: {last}")
