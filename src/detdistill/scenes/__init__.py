"""Drawn street scenes, the data set that detdistill makes for itself; `street` puts a scene together."""

from detdistill.scenes.street import SCENE_CLASSES, Scene, SceneObject, Split, draw_scene
from detdistill.scenes.write import KITTI_NAMES, make_scenes

__all__ = ["KITTI_NAMES", "SCENE_CLASSES", "Scene", "SceneObject", "Split", "draw_scene", "make_scenes"]
