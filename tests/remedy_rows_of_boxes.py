"""Rows of the table of remedies about what a detector finds: predictions, and teachers that say boxes alone."""

from __future__ import annotations

from remedy_words import Row, distill

FOUND = (
    Row(
        "predict {home}/teacher {home}/more/images --out {home}/run --coco {home}/scenes/found.json",
        "Write --coco {home}/more/images/found.json.",
        "predict {home}/teacher {home}/more/images --out {home}/run --coco {home}/more/images/found.json",
    ),
    Row(
        "predict {home}/teacher --data {home}/scenes",
        "Pass --out DIR.",
        "predict {home}/teacher --data {home}/scenes --out {home}/drawn",
    ),
    Row(
        "predict {home}/teacher --data {home}/scenes --out {home}/drawn --class-scores",
        "Pass --coco FILE.",
        "predict {home}/teacher --data {home}/scenes --out {home}/drawn --class-scores --coco {home}/found.json",
    ),
    Row(
        "predict {home}/teacher --out {home}/drawn",
        "Write detdistill predict CHECKPOINT IMAGE --out DIR.",
        "predict {home}/teacher {home}/scenes/images --out {home}/drawn",
    ),
    Row(
        "predict {home}/teacher {home}/clip.mp4 --coco {home}/found.json",
        "Leave it out, and pass --out DIR.",
        "predict {home}/teacher {home}/clip.mp4 --out {home}/drawn",
    ),
    Row(
        distill(teacher="told.json"),
        "Distil by --method boxes.",
        distill(teacher="told.json", method="boxes"),
    ),
    Row(
        distill("teacher.cache=maps", teacher="told.json", method="boxes"),
        "Set teacher.cache=boxes.",
        distill("teacher.cache=boxes", teacher="told.json", method="boxes"),
    ),
)
