"""Formulas as MathML, made at build time, so that the pages need neither a script nor a network."""

import itertools
from xml.etree import ElementTree

from docutils.utils.math import latex2mathml

THIN = "0.1667em"
APPLY = "\N{FUNCTION APPLICATION}"


def mathml(tex: str, block: bool = False) -> str:
    """TeX as MathML. docutils puts the index of a letter with an accent below the letter; here it stands at its foot, to the right."""
    tree = ElementTree.fromstring(latex2mathml.tex2mathml(tex, as_block=block).replace("&ApplyFunction;", APPLY))
    for node in list(tree.iter()):
        if name(node) == "munderover" and name(node[0]) != "mo" and name(node[2]) == "mo":
            letter, index, accent = node
            over = ElementTree.Element(node.tag.replace("munderover", "mover"), accent="true")
            over.extend([letter, accent])
            node.tag = node.tag.replace("munderover", "msub")
            node[:] = [over, index]
    for row in list(tree.iter()):
        set_apart(row)
    ElementTree.register_namespace("", "http://www.w3.org/1998/Math/MathML")
    return ElementTree.tostring(tree, encoding="unicode", short_empty_elements=False)


def set_apart(row: ElementTree.Element) -> None:
    """A thin space on both sides of a function's name, where docutils leaves none: ``a log b``, ``log(b)``."""
    for i, (function, applied) in reversed(list(enumerate(itertools.pairwise(row)))):
        if applied.text != APPLY:
            continue
        if i + 2 < len(row) and row[i + 2].text not in ("(", "["):
            applied.set("rspace", THIN)
        if i > 0 and name(row[i - 1]) != "mo":
            row.insert(i, ElementTree.Element(function.tag.replace(name(function), "mspace"), width=THIN))


def name(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2]
