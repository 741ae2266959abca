"""Editing: pictures that exist, changed as told and otherwise kept.

    code = rv.edit.invert(denoise, images, rv.Cond(label=3), "edict")
    images = rv.edit.reconstruct(denoise, code, rv.Cond(label=8), skip=10)

Inversions are in :mod:`reverie.edit.inversion`; :func:`~reverie.edit.methods.edit` is any method by its name.
"""

from reverie.edit import inversion
from reverie.edit.dds import dds
from reverie.edit.diffusion_clip import diffusion_clip, restyle
from reverie.edit.drag import Dragged, drag
from reverie.edit.dragon import dragon
from reverie.edit.imagic import imagic
from reverie.edit.instruct import instruct
from reverie.edit.inversion import Inversion
from reverie.edit.masactrl import masactrl
from reverie.edit.masked import masked, paste
from reverie.edit.methods import METHODS, Edited, edit, invert
from reverie.edit.pairs import Instruction, pairs
from reverie.edit.pix2pix_zero import moved, pix2pix_zero, text_direction
from reverie.edit.plug_and_play import plug_and_play
from reverie.edit.prompt_to_prompt import LocalBlend, prompt_to_prompt
from reverie.edit.realfill import realfill
from reverie.edit.replay import reconstruct, replay
from reverie.edit.sdedit import sdedit
from reverie.edit.words import Alignment, Word, align, aligned, tokens_of, words

__all__ = [
    "METHODS",
    "Alignment",
    "Dragged",
    "Edited",
    "Instruction",
    "Inversion",
    "LocalBlend",
    "Word",
    "align",
    "aligned",
    "dds",
    "diffusion_clip",
    "drag",
    "dragon",
    "edit",
    "imagic",
    "instruct",
    "inversion",
    "invert",
    "masactrl",
    "masked",
    "moved",
    "pairs",
    "paste",
    "pix2pix_zero",
    "plug_and_play",
    "prompt_to_prompt",
    "realfill",
    "reconstruct",
    "replay",
    "restyle",
    "sdedit",
    "text_direction",
    "tokens_of",
    "words",
]
