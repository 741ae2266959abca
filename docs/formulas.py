"""Formulas as MathML, made at build time, so that the pages need neither a script nor a network."""

from xml.etree import ElementTree

from docutils.utils.math import latex2mathml

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
    ElementTree.register_namespace("", "http://www.w3.org/1998/Math/MathML")
    return ElementTree.tostring(tree, encoding="unicode", short_empty_elements=False)


def name(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2]
