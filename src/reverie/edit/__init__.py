"""Editing: pictures that exist, changed as told and otherwise kept. Inversions are in :mod:`reverie.edit.inversion`."""

from reverie.edit import inversion
from reverie.edit.inversion import Inversion
from reverie.edit.replay import reconstruct, replay

__all__ = ["Inversion", "inversion", "reconstruct", "replay"]
