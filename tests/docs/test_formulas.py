"""Formulas read as they were written: nothing in them is beyond the converter, and indices of letters with accents stand at the foot."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "src").rglob("*.py"))]
UNBRACED = re.compile(r"\\[tdc]?frac(?!\s*\{[^}])|\\boxed\b")
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<!\$)\$([^$\n]+)\$", re.S)


def mathml(tex: str) -> str:
    spec = importlib.util.spec_from_file_location("formulas", ROOT / "docs" / "formulas.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return re.sub(r"\s+", "", module.mathml(tex))


def test_unbraced_fractions_and_boxes_are_found():
    assert all(UNBRACED.search(tex) for tex in (r"\frac12", r"\tfrac12 \log", r"\frac ab", r"\boxed{x}", r"\frac\pi2"))
    assert not UNBRACED.search(r"\frac{1}{2}\,\tfrac{dx}{dt}")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_fractions_have_braces_and_nothing_is_boxed(page: Path):
    assert UNBRACED.findall(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("tex", [r"\hat x_0", r"\hat{x}_0", r"\tilde\beta_t", r"\bar x_i"])
def test_the_accent_is_on_the_letter_and_the_index_at_its_foot(tex: str):
    made = mathml(tex)
    assert re.search(r'<msub><moveraccent="true"><mi>.</mi><mo[^>]*>.</mo></mover><m[in]>.</m[in]></msub>', made), made
    assert "munderover" not in made


def test_limits_of_a_sum_stay_below_and_above():
    assert re.search(r"<munderover><mo[^>]*>∑</mo>", mathml(r"\sum_{j}^n x_j"))


def test_the_name_of_a_function_stands_apart():
    made = mathml(r"\tfrac{1}{2} \log k")
    assert made.index("</mfrac>") < made.index("<mspacewidth=") < made.index("<mi>log</mi>")
    assert re.search(r'<mi>log</mi><morspace="0.1667em">.</mo><mi>k</mi>', made)
    assert "rspace" not in mathml(r"\log (x)") and "mspace" not in mathml(r"= \log x")


def test_every_formula_of_the_pages_is_converted():
    for page in (ROOT / "docs").rglob("*.md"):
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
        for block, inline in FORMULA.findall(text):
            made = mathml(block or inline)
            assert "\\" not in made and "merror" not in made, f"{page.name}: {block or inline}"
