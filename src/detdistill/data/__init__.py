"""Annotations, images and batches: everything between a folder on disk and a `Batch`."""
