"""What every word of every command changes: a row each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from setting_rows import FILES, SAID


@dataclass(frozen=True)
class Word:
    """A word of a command, and what it changes beside the command without it: what is printed, or files below OUT.

    Attributes:
        base: the command line without it.
        given: the word with its value; the base's own value of it is left out.
    """

    base: str
    given: str
    shows: str = SAID
    refused: str = ""


_ALONE = "{alone} --distilled {alone} --teacher {teacher}"
_CONVERT = "data convert {data} --to yolo --out OUT/made"
_SIZE = "data.image.short_side=32 data.image.long_side=48"
_TRAIN = f"train {_SIZE} --detector fcos/tiny --data {{data}} --out OUT/run --steps 4 --dry-run"
_DISTILL = (
    f"distill {_SIZE} --teacher {{teacher}} --student fcos/tiny --data {{data}} --method hint --out OUT/run --steps 4 "
    "--dry-run"
)
_EXAMPLE = f"{Path(__file__).resolve().parents[1] / 'examples' / 'own_detector.py'}:CenterNet"
_OWN, _OWN_TAUGHT = (line.replace("fcos/tiny", _EXAMPLE) for line in (_TRAIN, _DISTILL))
_EVALUATE = "evaluate {teacher} --data {data}"
_PREDICT = "predict {teacher} {data}/images/val_0.png --out OUT/drawn --score 0"
_PICTURES = (
    "pictures --alone {alone} --distilled {alone} --teacher {teacher} --data {data} --out OUT/found.png --score 0"
)
_DIAGNOSE = "diagnose {taught} --alone {alone}"
_REPORT = "report {taught} --images 0 --out OUT/page.html"
_SCENES = "data make scenes --out OUT/scenes --train 2 --val 1"
_BROKEN = "data.train={broken}/train.json"
_AS_MADE = "train.batch_size=4"
_AUDIT = "data audit {data} --teacher {teacher} --out OUT/audit --score 0 --images 1"
_JSON = "--json OUT/outcome.json"

WORDS: dict[str, Word] = {
    "train settings": Word(_TRAIN, "train.batch_size=3"),
    "train detector": Word(_TRAIN, "--detector fcos/small"),
    "train detector-args": Word(_OWN, "--detector-args width=8"),
    "train data": Word(_TRAIN, "--data {other}"),
    "train init": Word(_TRAIN, "--init {tutor}"),
    "train out": Word(_TRAIN, "--out OUT/elsewhere"),
    "train steps": Word(_TRAIN, "--steps 2"),
    "train seed": Word(_TRAIN.removesuffix(" --dry-run"), "--seed 5", FILES),
    "train allow-problems": Word(f"{_TRAIN} {_BROKEN}", "--allow-problems", "allowed"),
    "train resume": Word(f"{_TRAIN.replace('OUT/run', '{alone}')} {_AS_MADE}", "--resume", "allowed"),
    "train dry-run": Word(_TRAIN.removesuffix(" --dry-run"), "--dry-run", FILES),
    "train keys": Word(_TRAIN, "--keys"),
    "train json": Word(_TRAIN, _JSON, FILES),
    "distill settings": Word(_DISTILL, "train.batch_size=3"),
    "distill teacher": Word(_DISTILL, "--teacher {tutor}"),
    "distill then": Word(_DISTILL, "--then {tutor}"),
    "distill student": Word(_DISTILL, "--student fcos/small"),
    "distill student-args": Word(_OWN_TAUGHT, "--student-args width=8"),
    "distill data": Word(_DISTILL, "--data {other}"),
    "distill classes-map": Word(
        _DISTILL.replace("{teacher}", "{stranger}"), "--classes-map cat=square,dog=bar", "allowed"
    ),
    "distill unlabelled": Word(_DISTILL, "--unlabelled {data}/../more/images"),
    "distill method": Word(_DISTILL, "--method frs"),
    "distill strength": Word(_DISTILL, "--strength 1"),
    "distill self": Word(_DISTILL.replace("--student fcos/tiny ", ""), "--self", "allowed"),
    "distill generations": Word(_DISTILL.replace("--student fcos/tiny", "--self"), "--generations 2"),
    "distill inherit": Word(_DISTILL, "--inherit"),
    "distill init": Word(_DISTILL, "--init {tutor}"),
    "distill out": Word(_DISTILL, "--out OUT/elsewhere"),
    "distill alone": Word(_DISTILL, "--alone {tutor}", refused="--alone-differs"),
    "distill alone-differs": Word(f"{_DISTILL} --alone {{tutor}}", "--alone-differs", "allowed"),
    "distill equal-time": Word(_DISTILL, "--equal-time"),
    "distill longer": Word(_DISTILL, "--longer 2"),
    "distill steps": Word(_DISTILL, "--steps 2"),
    "distill seed": Word(_DISTILL, "--seed 5"),
    "distill allow-problems": Word(f"{_DISTILL} {_BROKEN}", "--allow-problems", "allowed"),
    "distill resume": Word(f"{_DISTILL.replace('OUT/run', '{taught}')} {_AS_MADE}", "--resume", "allowed"),
    "distill dry-run": Word(_DISTILL.removesuffix(" --dry-run"), "--dry-run", FILES),
    "distill keys": Word(_DISTILL, "--keys"),
    "distill json": Word(_DISTILL, _JSON, FILES),
    "evaluate checkpoint": Word(_EVALUATE, "{tutor}"),
    "evaluate data": Word(_EVALUATE, "--data {other}"),
    "evaluate split": Word(_EVALUATE, "--split train"),
    "evaluate protocol": Word(_EVALUATE, "--protocol voc"),
    "evaluate backend": Word(_EVALUATE, "--backend pycocotools"),
    "evaluate agnostic": Word(_EVALUATE, "--agnostic"),
    "evaluate confusion": Word(_EVALUATE, "--confusion OUT/confusion.png", FILES),
    "evaluate curves": Word(_EVALUATE, "--curves OUT/curves.png", FILES),
    "evaluate score": Word(f"{_EVALUATE} {_JSON} --score 0.9", "--score 0.001", FILES),
    "evaluate interval": Word(_EVALUATE, "--interval"),
    "evaluate json": Word(_EVALUATE, _JSON, FILES),
    "predict checkpoint": Word(_PREDICT, "{tutor}", FILES),
    "predict images": Word(_PREDICT, "{data}/images/val_1.png"),
    "predict out": Word(_PREDICT, "--out OUT/elsewhere", FILES),
    "predict score": Word(_PREDICT, "--score 1"),
    "predict agnostic": Word(_PREDICT, "--agnostic"),
    "predict coco": Word(
        _PREDICT.replace("{data}/images", "{data}/../more/images"), "--coco {data}/../more/found.json"
    ),
    "predict data": Word(_PREDICT, "--data {data}"),
    "predict class-scores": Word(
        "predict {teacher} {data}/../more/images/val_0.png --score 0 --coco {data}/../more/told.json", "--class-scores"
    ),
    "predict frames": Word(f"{_PREDICT} {{home}}/clip.mp4", "--frames", FILES),
    "predict json": Word(_PREDICT, _JSON, FILES),
    "methods name": Word("methods", "frs"),
    "methods pair": Word("methods", "--pair fcos/tiny gfl/tiny"),
    "methods markdown": Word("methods", "--markdown"),
    "methods json": Word("methods", _JSON, FILES),
    "settings words": Word("settings", "patience"),
    "settings markdown": Word("settings patience", "--markdown"),
    "settings json": Word("settings", _JSON, FILES),
    "profile model": Word("profile fcos/tiny", "fcos/small"),
    "profile size": Word("profile fcos/tiny", "--size 64 96"),
    "profile classes": Word("profile fcos/tiny", "--classes 3"),
    "profile json": Word("profile fcos/tiny", _JSON, FILES),
    "pictures alone": Word(_PICTURES, "--alone {tutor}", FILES),
    "pictures distilled": Word(_PICTURES, "--distilled {tutor}", FILES),
    "pictures teacher": Word(_PICTURES, "--teacher {tutor}", FILES),
    "pictures data": Word(_PICTURES, "--data {other}", FILES),
    "pictures out": Word(_PICTURES, "--out OUT/other.png", FILES),
    "pictures seed": Word(f"{_PICTURES} --images 1", "--seed 5", FILES),
    "pictures images": Word(_PICTURES, "--images 1", FILES),
    "pictures score": Word(_PICTURES, "--score 1", FILES),
    "pictures agnostic": Word(_PICTURES, "--agnostic", FILES),
    "pictures json": Word(_PICTURES, _JSON, FILES),
    "diagnose run": Word(_DIAGNOSE, "{tutor}", refused="without config.yaml"),
    "diagnose alone": Word(_DIAGNOSE, "--alone {tutor}"),
    "diagnose json": Word(_DIAGNOSE, _JSON, FILES),
    "report run": Word(_REPORT, "{tutor}", refused="must be the folder of a training"),
    "report out": Word(_REPORT, "--out OUT/other.html", FILES),
    "report images": Word(_REPORT, "--images 1", FILES),
    "report looked-at": Word(_REPORT, "--looked-at", FILES),
    "report json": Word(_REPORT, _JSON, FILES),
    "data check path": Word("data check {data}", "{other}"),
    "data check json": Word("data check {data}", _JSON, FILES),
    "data convert path": Word(_CONVERT, "{other}", FILES),
    "data convert to": Word(_CONVERT, "--to voc", FILES),
    "data convert out": Word(_CONVERT, "--out OUT/other", FILES),
    "data convert split-seed": Word(_CONVERT, "--split-seed 1", refused="--split-seed"),
    "data convert json": Word(_CONVERT, _JSON, FILES),
    "data audit path": Word(_AUDIT, "{other}", FILES),
    "data audit teacher": Word(_AUDIT, "--teacher {tutor}", FILES),
    "data audit out": Word(_AUDIT, "--out OUT/other", FILES),
    "data audit split": Word(_AUDIT, "--split val", FILES),
    "data audit score": Word(_AUDIT, "--score 1", FILES),
    "data audit images": Word(_AUDIT, "--images 0", FILES),
    "data audit json": Word(_AUDIT, _JSON, FILES),
    "data make scenes out": Word(_SCENES, "--out OUT/other", FILES),
    "data make scenes train": Word(_SCENES, "--train 3"),
    "data make scenes val": Word(_SCENES, "--val 2"),
    "data make scenes seed": Word(_SCENES, "--seed 5", FILES),
    "data make scenes kitti": Word(_SCENES, "--kitti", FILES),
    "data make scenes json": Word(_SCENES, _JSON, FILES),
}


# These train or export for minutes, or want COCO or a hub: their words are shown by tests of their own.
def _looked_at(text: str) -> str:
    """What the doctor is asked of the same run."""
    return text.replace("distill ", "doctor ", 1).removesuffix(" --dry-run")


WORDS |= {
    _looked_at(name): replace(word, base=_looked_at(word.base.replace(" --dry-run", "")))
    for name, word in WORDS.items()
    if name.startswith("distill ") and name not in ("distill dry-run", "distill keys")
}
WORDS["doctor out"] = replace(WORDS["doctor out"], given="--out {taught}", refused="must be new or empty")
WORDS["doctor teachers"] = Word(_looked_at(_DISTILL), "--teachers {tutor}", refused="--teacher must be left out")
SHOWN_ELSEWHERE = ("demo", "reproduce", "prove", "tune", "export", "push", "data make coco-traffic")
