"""The documentation: every name of the package that it mentions exists."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "docs").rglob("*.py")), *SOURCES]
QUALIFIED = re.compile(r"(?<![\w./-])(?:rv|reverie)((?:\.[A-Za-z_]\w*)+)(?![\w{])")
ROLE = re.compile(r":(?:py:)?(?:func|class|meth|data|mod|attr):`~?(?:[^`<]*<)?([\w.]+)>?`")
IMPORT = re.compile(r"^ *from (reverie[\w.]*) import ([\w, ]+)$", re.MULTILINE)
PLACEHOLDERS = {"cli.NAME", "css"}


def exists(path: str) -> bool:
    """Whether ``reverie.path`` is a module, or an attribute of one, or of its attributes."""
    parts = ["reverie", *path.split(".")]
    for count in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:count]))
            for part in parts[count:]:
                value = getattr(value, part)
        except (ImportError, AttributeError):
            continue
        return True
    return False


def qualified(text: str) -> set[str]:
    found = {match.group(1)[1:] for match in QUALIFIED.finditer(text)}
    for module, names in IMPORT.findall(text):
        prefix = module.removeprefix("reverie").lstrip(".")
        found |= {f"{prefix}.{name.split()[0]}".lstrip(".") for name in names.split(",") if name.strip()}
    return found - PLACEHOLDERS


def defined() -> set[str]:
    """Every name that a module of the package defines."""
    names: set[str] = set()
    for path in SOURCES:
        names |= {path.stem, path.parent.name}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return names


def test_a_name_that_does_not_exist_is_found():
    text = "from reverie.solve import sample, smaple\nrv.guide.nothing(3); reverie.core.noise.Tape, runs/reverie.html, rv.grids"
    found = qualified(text)
    assert found == {"solve", "solve.sample", "solve.smaple", "guide.nothing", "core.noise.Tape", "grids"}
    assert {name for name in found if not exists(name)} == {"solve.smaple", "guide.nothing"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_of_the_package_exist(page: Path):
    text = page.read_text()
    assert sorted(name for name in qualified(text) if not exists(name)) == []


def test_names_in_cross_references_exist():
    names = defined()
    wrong = {
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in ROLE.findall(page.read_text())
        if target.rpartition(".")[2] not in names
    }
    assert sorted(wrong) == []
