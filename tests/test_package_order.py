"""The packages of ``custom`` stand in an order, and each imports only those before it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT

#: From the bottom up. Only ``cli``, ``scripts/`` and the app import ``tools``, which no exported bundle carries.
ORDER = (
    *("utils", "anatomy", "imageio", "text", "networks", "losses", "prompts", "datasets", "weights", "transforms"),
    *("visualize", "bundle", "inferers", "evaluation", "outputs", "handlers", "engines", "cli", "tools"),
)
MODULES = sorted((ROOT / "custom").rglob("*.py"))


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(file: Path) -> Iterator[str]:
    """Modules of ``custom`` that a file imports, at its top or within a function."""
    known = {name_of(module) for module in MODULES}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("custom."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "custom":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else str(node.module)


def test_the_order_names_every_package() -> None:
    folders = {path.name for path in (ROOT / "custom").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(ORDER)
    files = {path.name for path in (ROOT / "custom").iterdir() if path.is_file()}
    assert files == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("package", ORDER)
def test_a_package_imports_only_those_before_it(package: str) -> None:
    allowed = {"custom", *ORDER[: ORDER.index(package) + 1]}
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in sorted((ROOT / "custom" / package).rglob("*.py"))
        for module in imported(file)
        if module.split(".")[1:2] and module.split(".")[1] not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports of a package count as imports of its ``__init__``; those within a function count too."""
    imports = {name_of(file): set(imported(file)) - {"custom"} for file in MODULES}
    finished: set[str] = set()

    def follow(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in finished:
            for other in sorted(imports.get(module, ())):
                follow(other, (*path, module))
            finished.add(module)

    for module in imports:
        follow(module, ())
