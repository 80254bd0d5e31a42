"""Drawn street scenes: the data set that detdistill makes for itself.

`setting` plans a street and its light, `buildings`, `furniture`, `vehicles` and `people` sketch what stands there,
`canvas` paints it and keeps the instance map, `street` puts a scene together, `write` makes a data set of many.
"""

from detdistill.scenes.street import SCENE_CLASSES, Scene, SceneObject, Split, draw_scene
from detdistill.scenes.write import KITTI_NAMES, make_scenes

__all__ = ["KITTI_NAMES", "SCENE_CLASSES", "Scene", "SceneObject", "Split", "draw_scene", "make_scenes"]
