"""The shell commands and Python snippets of the Markdown pages, and where they stand."""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.helpers import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("bundles/*/docs/README.md")),
]

#: First words of what is typed into a shell.
PROGRAMS = {
    *("cd", "export", "for", "mkdir", "source", ".venv/bin/pre-commit"),
    *("make", "pip", "pytest", "python", "python3", "torchrun", "sbatch", "srun"),
    *("mlflow", "monailabel", "tensorboard"),
}
#: Commands that a page writes without their beginning.
BEGINNINGS = {r"scripts/\S+\.py ": "python ", r"(network|bank) --": "python scripts/convert_weights.py "}

#: Words with an option that are not to be typed.
MENTIONS = {"/usr/bin/time -v"}

ASSIGNMENT = re.compile(r"([A-Z]+=\S+ ?)+")
CHANGED_FOLDER = re.compile(r"cd \S+")
QUOTED = re.compile(r"""(?:\\.|"[^"]*"|'[^']*'|(?<=\S)#|[^#"'\\])*""")
HEREDOC = re.compile(r"<<'(\w+)'\n")


class Command(NamedTuple):
    """Something to type.

    Args:
        page: path of its page in the repository.
        line: where it begins; of one within a paragraph, where that begins.
        text: continued lines joined, comments left out; a Python snippet is a here-document of ``python -``.
        in_block: it is a line of a code block, not named within a paragraph.
        variables: what the page has assigned before it, and to which folder its block went, one statement a line.
    """

    page: str
    line: int
    text: str
    in_block: bool
    variables: str

    @property
    def folder(self) -> str:
        """Where in the repository it is typed: a bundle's page is read in the bundle's folder."""
        return str(Path(self.page).parents[1]) if self.page.startswith("bundles/") else "."

    def __str__(self) -> str:
        """As the name of a test."""
        first = self.text.replace("\n", " ")
        return f"{self.page}:{self.line} {first if len(first) < 90 else first[:87] + '...'}"


def _is_json(block: str) -> bool:
    for text in (block, f"{{{block}}}"):
        try:
            json.loads(text)
        except ValueError:
            continue
        return True
    return False


def _is_python(block: str) -> bool:
    try:
        return any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(block).body)
    except SyntaxError:
        return False


#: Code blocks that are no commands.
OTHERS: Mapping[str, Callable[[str], bool]] = {
    "JSON": _is_json,
    "lines of a list file": lambda block: all(line.count(".nii.gz\t") == 1 for line in block.splitlines()),
    "a folder's tree": lambda block: bool(re.fullmatch(r"/\S+\n(  .*\n)+", block)),
    "a drawing of a network": lambda block: block.startswith("image -> "),
}


def commands(page: Path, *, root: Path = ROOT) -> Iterator[Command]:
    """Every command of a page of the repository ``root``, in its order.

    Raises:
        ValueError: a code block that is neither commands nor Python nor one of ``OTHERS``, or a command within a
            paragraph that is none of ``PROGRAMS``.
    """
    name, assigned = str(page.relative_to(root)), ""
    for block in _blocks(page):
        moved = ""
        for line, text, in_block in block:
            if ASSIGNMENT.fullmatch(text):
                assigned += f"{text}\n"
            elif CHANGED_FOLDER.fullmatch(text):
                moved += f"{text}\n"
            else:
                yield Command(name, line, text, in_block, assigned + moved)


def _blocks(page: Path) -> Iterator[list[tuple[int, str, bool]]]:
    """Statements with their lines, and whether they stand in a code block; one block or paragraph after another."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        begin = token.map[0] + 1 if token.map else 0
        in_block = token.type in ("code_block", "fence")
        try:
            found = list(_in_block(token.content)) if in_block else [(0, text) for text in _in_paragraph(token)]
        except ValueError as error:
            raise ValueError(f"{page}:{begin}: {error}") from None
        begin += token.type == "fence"
        yield [(begin + line, text, in_block) for line, text in found]


def _in_block(block: str) -> Iterator[tuple[int, str]]:
    """Statements of a code block, with their lines in it."""
    if any(is_other(block) for is_other in OTHERS.values()):
        return
    if _is_python(block):
        yield 0, f"python - <<'EOF'\n{block}EOF"
        return
    pending: list[str] = []
    for at, line in enumerate(block.splitlines()):
        pending.append(line)
        text = re.sub(r"\s*\\\n\s*", " ", "\n".join(pending))
        if _is_whole(text):
            if text := _without_comments(text):
                yield at + 1 - len(pending), text
            pending = []
    if pending:
        raise ValueError(f"A command must have an end: {pending}")


def _is_whole(text: str) -> bool:
    if here := HEREDOC.search(f"{text}\n"):
        return text.endswith(f"\n{here[1]}")
    return not text.endswith("\\") and (not text.startswith("for ") or text.endswith("\ndone"))


def _without_comments(text: str) -> str:
    """A shell statement without comments.

    Raises:
        ValueError: something else.
    """
    lines = text.splitlines()
    if HEREDOC.search(text):
        return text
    for at, line in enumerate(lines):
        code = QUOTED.match(line)
        if code is None or line[code.end() :][:1] not in ("", "#"):
            raise ValueError(f"A quote must end on its line: {line}")
        lines[at] = code.group().rstrip()
    text = "\n".join(lines).strip()
    if text and text.split()[0] not in PROGRAMS and not ASSIGNMENT.fullmatch(text):
        raise ValueError(
            f"A code block must be commands, Python or one of {', '.join(OTHERS)}, which documented.py tells by "
            f"their looks. If this is a command, add its program to PROGRAMS: {text}"
        )
    return text


def _in_paragraph(token: Token) -> Iterator[str]:
    """Commands and assignments among the words of a paragraph.

    Raises:
        ValueError: words with an option that begin with no known program.
    """
    for child in token.children or ():
        if child.type != "code_inline" or child.content in MENTIONS:
            continue
        text = child.content
        for pattern, beginning in BEGINNINGS.items():
            if re.match(pattern, text):
                text = beginning + text
        first, *others = text.split()
        if ASSIGNMENT.fullmatch(text) or (first in PROGRAMS and others):
            yield text
        elif not first.startswith("-") and any(word.startswith("-") for word in others):
            raise ValueError(f"{first} must be one of PROGRAMS in tests/documentation/documented.py: {text}")


def documented() -> list[Command]:
    """The commands of all pages; a paragraph that repeats one, or names its beginning, adds none."""
    found = [command for page in PAGES for command in commands(page)]
    texts = {command.text for command in found}
    known = {command.text for command in found if command.in_block}
    kept = []
    for command in found:
        if not command.in_block:
            if command.text in known or any(text.startswith(f"{command.text} ") for text in texts):
                continue
            known.add(command.text)
        kept.append(command)
    return kept
