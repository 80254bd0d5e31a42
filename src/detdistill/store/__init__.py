"""The one owner of what lies on the disk: a run's folder, its checkpoints, saved detectors and twins."""
