"""Attention maps: what the image attends to. `load` reads those of a run without torch."""

from vsf_cli.maps.data import AXES, EVERYTHING, Maps, Selection, load, save

__all__ = ["AXES", "EVERYTHING", "Maps", "Selection", "load", "save"]
