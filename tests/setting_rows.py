"""What every setting changes: a row each, with a value that is not its default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from detdistill.methods.catalogue import METHODS

WEIGHTS, SAID, RESULTS, METRICS, FILES, FOUND = "weights", "said", "results", "metrics", "files", "found"
PLACE = "place"


@dataclass(frozen=True)
class Row:
    """A value, what it changes, and settings that it needs beside it, which the run it is compared with has too.

    Attributes:
        shows: which part of what a run leaves differs; ``"allowed"`` where it lets a run go on that is refused
            without it.
        refused: a pattern of the sentence where it cannot be used here.
    """

    value: str
    shows: str = WEIGHTS
    beside: tuple[str, ...] = ()
    refused: str = ""
    command: Literal["train", "distill"] = "train"
    method: str = "hint"


ADVERSARIAL = {"command": "distill", "method": "ikd(hint)"}
DISTILLED: dict[str, Any] = {"command": "distill"}
TEACHERS_SIZE = ("teacher.image.short_side=48", "teacher.image.long_side=96")
EVERYTHING = ("student.score_threshold=0",)
SPOILT: dict[str, Any] = {"command": "distill", "method": "spoilt"}
MERGED = ("teacher.source={stranger}", "teacher.classes_map=cat=bar, dog=bar")
EVALUATED = ("train.evaluate_every=1",)
UNLABELLED = ("data.unlabelled.source={data}/../more/images",)
# What a teacher that learnt nothing finds counts nowhere else.
ANY_BOX = ("data.unlabelled.precision=1e-6", "data.unlabelled.doubtful=1e-6")
LABELS = "data.unlabelled.pseudo=hard"

ROWS: dict[str, Row] = {
    "data.folder": Row("{other}", beside=("data.folder={data}",)),
    "data.train": Row("{other}/train.json"),
    "data.val": Row("{other}/val.json", RESULTS),
    "data.classes": Row("[square]"),
    "data.weights": Row("[1, 9]", beside=("data.folder=[{data}, {other}]",)),
    "data.image.short_side": Row("24"),
    "data.image.long_side": Row("36"),
    "data.image.pad_multiple": Row("64"),
    "data.cache": Row("ram", SAID),
    "data.cache_folder": Row("{home}/kept", SAID, ("data.cache=disk", "data.cache_folder={home}/elsewhere")),
    "data.decode": Row("reduced", SAID, ("data.augment.crop=1.0",)),
    "data.allow_problems": Row("true", "allowed", ("data.train={broken}/train.json",)),
    "data.augment.flip": Row("1.0"),
    "data.augment.colour": Row("1.0"),
    "data.augment.scale_jitter": Row("[0.5, 0.6]"),
    "data.augment.short_sides": Row("[20, 24]"),
    "data.augment.flip_vertical": Row("1.0"),
    "data.augment.crop": Row("1.0"),
    "data.augment.crop_smallest": Row("0.8", beside=("data.augment.crop=1.0",)),
    "data.augment.grey": Row("1.0"),
    "data.augment.blur": Row("1.0", beside=("data.image.short_side=128", "data.image.long_side=192")),
    "data.sample_specific.noise_probability": Row("1.0", beside=("data.sample_specific.small_px=1000",)),
    "data.sample_specific.noise_sd": Row(
        "0.5", beside=("data.sample_specific.small_px=1000", "data.sample_specific.noise_probability=1.0")
    ),
    "data.sample_specific.smallest_crop": Row("0.5", beside=("data.sample_specific.small_px=1",)),
    "data.sample_specific.small_px": Row("1", beside=("data.sample_specific={}",)),
    "data.sample_specific_until": Row("0", beside=("data.sample_specific.small_px=1",)),
    "data.unlabelled.source": Row("{data}/../more/images", **DISTILLED),
    "data.unlabelled.share": Row("0.5", beside=UNLABELLED, **DISTILLED),
    "data.unlabelled.pseudo": Row("hard", beside=(*UNLABELLED, *ANY_BOX), **DISTILLED),
    "data.unlabelled.pseudo_gain": Row("3", beside=(*UNLABELLED, *ANY_BOX, LABELS), **DISTILLED),
    "data.unlabelled.precision": Row("1", SAID, (*UNLABELLED, *ANY_BOX), **DISTILLED),
    "data.unlabelled.doubtful": Row("2e-6", SAID, (*UNLABELLED, "data.unlabelled.precision=1", LABELS), **DISTILLED),
    "student.detector": Row("fcos/small"),
    "train.steps": Row("2"),
    "train.batch_size": Row("3"),
    "train.accumulate": Row("2"),
    "train.optimizer": Row("sgd"),
    "train.lr": Row("0.01"),
    "train.backbone_lr_factor": Row("0.1"),
    "train.weight_decay": Row("0.5"),
    "train.momentum": Row("0.1", beside=("train.optimizer=sgd",)),
    "train.schedule": Row("constant"),
    "train.milestones": Row("[0.25, 0.5]", beside=("train.schedule=step",)),
    "train.warmup_steps": Row("0"),
    "train.clip_norm": Row("0.01"),
    "train.ema_decay": Row("0"),
    "train.precision": Row("bf16-mixed"),
    "train.seed": Row("5"),
    "train.workers": Row("1", SAID),
    "train.threads": Row("2", SAID),
    "train.processes": Row("2", SAID),
    "train.device": Row("cuda:7", refused="train.device"),
    "train.log_every": Row("1", METRICS),
    "train.checkpoint_every": Row("2", FILES),
    "train.keep_checkpoints": Row("1", FILES, ("train.checkpoint_every=1",)),
    "train.evaluate_every": Row("2", FILES),
    "train.keep": Row("best", RESULTS, EVALUATED),
    "train.best_metric": Row("AP50", RESULTS, ("train.keep=best", *EVALUATED)),
    "train.patience": Row("1", RESULTS, ("train.lr=1e-12", *EVALUATED)),
    "train.nan": Row("skip", "allowed", **SPOILT),
    "train.nan_skips": Row("2", "allowed", ("train.nan=skip", "train.nan_skips=1"), **SPOILT),
    "train.tensorboard": Row("true", FILES),
    "train.loggers": Row("[mlflow]", FILES),
    "evaluate.backend": Row("pycocotools", SAID),
    "evaluate.batch_size": Row("1", SAID),
    "evaluate.agnostic": Row("true", SAID),
    "teacher.source": Row("{tutor}", **DISTILLED),
    "teacher.then": Row("[{tutor}]", **DISTILLED),
    "teacher.shares": Row("[1, 3]", beside=("teacher.then=[{tutor}]",), **DISTILLED),
    "teacher.choose": Row("lowest", beside=("teacher.source=[{teacher}, {tutor}]",), **DISTILLED),
    "teacher.allow": Row("[classes]", "allowed", ("teacher.source={stranger}",), **DISTILLED),
    "teacher.image.short_side": Row("64", beside=TEACHERS_SIZE, **DISTILLED),
    "teacher.image.long_side": Row("60", beside=TEACHERS_SIZE, **DISTILLED),
    "teacher.image.pad_multiple": Row("24", beside=TEACHERS_SIZE, **DISTILLED),
    "teacher.classes_map": Row("cat=square, dog=bar", "allowed", ("teacher.source={stranger}",), **DISTILLED),
    "teacher.classes_merge": Row("max", beside=MERGED, command="distill", method="frs"),
    "teacher.cache": Row("maps", FILES, command="distill"),
    "teacher.cache_folder": Row("{home}/finds", FILES, command="distill", method="boxes"),
    "teacher.fold": Row("true", **DISTILLED),
    "teacher.mean": Row("[0.1, 0.2, 0.3]", **DISTILLED),
    "teacher.std": Row("[0.5, 0.4, 0.3]", **DISTILLED),
    "method": Row("frs", **DISTILLED),
    "twins.folder": Row("{home}/twins", FILES, **ADVERSARIAL),
    "twins.on_the_fly": Row("true", FILES, **ADVERSARIAL),
    "inherit": Row("true", **DISTILLED),
    "init": Row("{tutor}"),
    "out": Row("{home}/another", PLACE),
    "alone": Row("{alone}", RESULTS, **DISTILLED),
    "alone_differs": Row("true", "allowed", ("alone={tutor}",), **DISTILLED),
    "equal_time": Row("true", RESULTS, **DISTILLED),
    "longer": Row("2", RESULTS, **DISTILLED),
    "report": Row("false", FILES, **DISTILLED),
}

# By family, beside what all share, which is shown on the first.
DETECTORS: dict[str, dict[str, Row]] = {
    "fcos": {
        "family": Row("gfl", refused="student.family"),
        "backbone": Row("test_resnet2", refused="backbone"),
        "fpn_channels": Row("16"),
        "head_depth": Row("1"),
        "strides": Row("[8, 16]"),
        "norm": Row("group"),
        "fpn_norm": Row("group"),
        "freeze_stages": Row("2"),
        "pretrained": Row("no_such.safetensors", refused="no_such"),
        "mean": Row("[0.1, 0.2, 0.3]"),
        "std": Row("[0.5, 0.5, 0.5]"),
        "score_threshold": Row("0.5", FOUND, EVERYTHING),
        "nms_threshold": Row("0.1", FOUND, EVERYTHING),
        "detections_per_image": Row("3", FOUND, EVERYTHING),
        "head_norm": Row("none"),
        "box_bias_init": Row("1.0"),
        "class_prior": Row("0.1"),
        "centre_radius": Row("0.5"),
        "candidates_per_level": Row("2", FOUND, EVERYTHING),
    },
    "retinanet": {
        "head_norm": Row("none"),
        "class_prior": Row("0.1"),
        "anchor_scale": Row("4.0"),
        "anchor_octaves": Row("2"),
        "anchor_ratios": Row("[1.0]"),
        "positive_iou": Row("0.2", beside=("student.negative_iou=0.1",)),
        "negative_iou": Row("0.2"),
        "candidates_per_level": Row("2", FOUND, EVERYTHING),
    },
    "gfl": {
        "head_norm": Row("none"),
        "box_bias_init": Row("1.0"),
        "box_bins": Row("9"),
        "class_prior": Row("0.1"),
        "anchor_scale": Row("4.0"),
        "candidates_per_level": Row("2", FOUND, EVERYTHING),
    },
    "faster_rcnn": {
        "anchor_scale": Row("2.0"),
        "anchor_octaves": Row("2"),
        "anchor_ratios": Row("[1.0]"),
        "roi_channels": Row("32"),
        "roi_samples": Row("4"),
        "rpn_samples": Row("4"),
        "proposals_train": Row("4"),
        "proposals_test": Row("2", FOUND, EVERYTHING),
    },
    "hf": {
        "model": Row("rtdetr_tiny", refused="student.model"),
        "config": Row("{num_queries: 12}"),
        "norm": Row("frozen"),
        "slots": Row("[1, 0]", FOUND, EVERYTHING),
    },
}

# Where another value than the next one is needed, or something beside it.
METHOD_ROWS: dict[str, Row] = {
    "aid.recipe": Row("frs"),
    "aid.weigh_adversarial": Row("true", refused="aid's weigh_adversarial must be false"),
    "attention.channel_mask": Row("false"),
    "boxes.score": Row("0.002", beside=("method.doubtful=0",)),
    "boxes.doubtful": Row("0.005", beside=("method.score=0.5",)),
    "boxes.duplicate": Row("0.001", beside=("method.score=0", "method.doubtful=0")),
    "boxes.weighed": Row("false", beside=("method.score=0", "method.doubtful=0")),
    "boxes.soft": Row("false", beside=("method.score=0", "method.doubtful=0")),
    "crosskd.after": Row("2"),
    "crosskd.aligner": Row("conv1x1", beside=("method.reading=pyramid",)),
    "crosskd.distribution_gain": Row("1", refused="must have box distributions"),
    "crosskd.reading": Row("pyramid"),
    "cwd.aligner": Row("conv1x1"),
    "fgd.aligner": Row("conv1x1"),
    "frs.warmup_steps": Row("0", beside=("train.steps=20",)),
    "frs.feature_gain": Row("1"),
    "frs.class_gain": Row("100"),
    "frs.standardize": Row("true", beside=("method.strength=published",)),
    "hint.gain": Row("30"),
    "ikd.recipe": Row("frs"),
    "ikd.smallest_crop": Row("0.4", beside=("method.small_px=1",)),
    "ld.class_gain": Row("10"),
    "ld.strength": Row("published", beside=("train.steps=20",)),
    "ld.class_temperature": Row("9", beside=("method.class_gain=10",)),
    "mgd.aligner": Row("conv1x1"),
    "pkd.aligner": Row("conv1x1"),
    "ssim.window": Row("5"),
    # Logged more often, so that what they are compared with is theirs alone.
    **{f"{name}.calibration": Row("running", beside=("train.log_every=2",)) for name in METHODS},
    # In so few steps nothing of these is corrected.
    **{f"{name}.calibration": Row("running", RESULTS) for name in ("crosskd", "ld", "queries")},
}
