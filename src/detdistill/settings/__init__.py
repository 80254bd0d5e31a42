"""One way from text to settings: YAML, `key.sub=value` and a method's text become trees, and trees become settings.

A tree is what YAML holds: dictionaries, lists and plain values. Settings are nested frozen dataclasses, declared beside
the code that uses them. `build` is the only way from one to the other, `as_tree` the way back.
"""

from detdistill.settings.reading import build
from detdistill.settings.trees import PLACE, Tagged, as_tree, given, once, with_paths

__all__ = ["PLACE", "Tagged", "as_tree", "build", "given", "once", "with_paths"]
