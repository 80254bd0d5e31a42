"""What a detector is built from: plain settings, the defaults of each family, and named presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

from detdistill.errors import ConfigError, suggestion

Family = Literal["fcos", "retinanet", "faster_rcnn", "gfl"]
Norm = Literal["batch", "frozen", "group"]
FpnNorm = Literal["none", "batch", "group"]
HeadNorm = Literal["none", "group"]

FAMILIES: tuple[str, ...] = get_args(Family)
MAX_FREEZE_STAGES = 4
_FEWEST_BINS = 2
_TUPLES = ("strides", "mean", "std", "anchor_ratios")


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """Everything that decides a detector's architecture, its loss and its detections; JSON-able with `asdict`.

    Attributes:
        family: "fcos", "retinanet", "faster_rcnn" or "gfl".
        backbone: a timm model name.
        fpn_channels: channels of every pyramid level.
        head_depth: convolutions before the prediction layers of the dense heads.
        strides: pixels per cell of every level, fine to coarse, each twice the one before.
        norm: the backbone's normalisation: "batch" as it comes; "frozen" = batch-norm that always uses its
            stored statistics and never learns (what papers do with ImageNet weights and small batches);
            "group" = every batch-norm replaced by group-norm.
        fpn_norm: normalisation after the pyramid's convolutions; "none" is torchvision's.
        head_norm: normalisation in the dense heads' towers; groups are chosen to fit the width.
        freeze_stages: 0 = train everything; n = the backbone up to and including its maps of stride 2^(n+1)
            keeps its weights and its statistics.
        pretrained: None = random weights; True = timm's own, downloaded; a path = a state dict in timm's names.
        mean: subtracted from RGB in [0, 1], per channel.
        std: what the difference is divided by, per channel.
        box_bias_init: FCOS and GFL, in strides: the box that is predicted before anything is learnt reaches
            this far to each side. FCOS: 0 (torchvision's) starts at the kink of the ReLU behind it. GFL: (box_bins −
            1) / 2 (the paper's) starts with all distances alike.
        box_bins: GFL: an edge's distribution is over distances of 0, 1, ..., box_bins − 1 strides.
        class_prior: first score of every class in the dense heads.
        centre_radius: FCOS: cells nearer than this many strides to a box's centre learn it.
        anchor_scale: RetinaNet and Faster R-CNN: side of the smallest anchor, in strides. GFL: side of the one
            square around each cell by whose overlap objects are given to cells.
        anchor_octaves: anchor sizes per octave on every level.
        anchor_ratios: height / width of the anchors.
        positive_iou: RetinaNet: anchors that overlap a box at least so much learn it.
        negative_iou: RetinaNet: anchors below are background; between the two they are left out.
        roi_channels: Faster R-CNN: width of the second stage's two layers.
        roi_samples: Faster R-CNN: proposals sampled per image for the second stage's loss.
        rpn_samples: Faster R-CNN: anchors sampled per image for the first stage's loss.
        proposals_train: Faster R-CNN: proposals kept per image in training.
        proposals_test: Faster R-CNN: proposals kept per image in detection.
        score_threshold: detections below this score are dropped.
        nms_threshold: of two boxes of a class that overlap more than this, the better stays.
        detections_per_image: most detections an image can have.
        candidates_per_level: most candidates per level before non-maximum suppression.
    """

    family: Family
    backbone: str
    fpn_channels: int = 256
    head_depth: int = 4
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    norm: Norm = "batch"
    fpn_norm: FpnNorm = "none"
    head_norm: HeadNorm = "group"
    freeze_stages: int = 0
    pretrained: bool | str | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    box_bias_init: float = 3.0
    box_bins: int = 17
    class_prior: float = 0.01
    centre_radius: float = 1.5
    anchor_scale: float = 4.0
    anchor_octaves: int = 3
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    positive_iou: float = 0.5
    negative_iou: float = 0.4
    roi_channels: int = 1024
    roi_samples: int = 512
    rpn_samples: int = 256
    proposals_train: int = 2000
    proposals_test: int = 1000
    score_threshold: float = 0.05
    nms_threshold: float = 0.6
    detections_per_image: int = 100
    candidates_per_level: int = 1000

    def __post_init__(self) -> None:
        _one_of("family", self.family, FAMILIES)
        _one_of("norm", self.norm, get_args(Norm))
        _one_of("fpn_norm", self.fpn_norm, get_args(FpnNorm))
        _one_of("head_norm", self.head_norm, get_args(HeadNorm))
        for name in ("fpn_channels", "anchor_octaves", "roi_channels", "roi_samples", "rpn_samples"):
            _at_least_one(name, self.to_dict()[name])
        for name in ("proposals_train", "proposals_test", "detections_per_image", "candidates_per_level"):
            _at_least_one(name, self.to_dict()[name])
        if self.head_depth < 0:
            raise ConfigError(f"detector.head_depth must be 0 or more, got {self.head_depth}. 2 to 4 is usual.")
        if not 0 <= self.freeze_stages <= MAX_FREEZE_STAGES:
            raise ConfigError(
                f"detector.freeze_stages must be 0 to {MAX_FREEZE_STAGES}, got {self.freeze_stages}. "
                "0 trains the whole backbone."
            )
        _check_boxes(self)
        doubling = all(coarse == 2 * fine for fine, coarse in zip(self.strides, self.strides[1:], strict=False))
        power = bool(self.strides) and self.strides[0] >= 2 and self.strides[0].bit_count() == 1
        if not (doubling and power):
            raise ConfigError(
                f"detector.strides must be powers of two, each twice the one before, got {self.strides}. "
                "Write for example (8, 16, 32)."
            )
        for name, value in (("class_prior", self.class_prior), ("nms_threshold", self.nms_threshold)):
            if not 0 < value < 1:
                raise ConfigError(f"detector.{name} must lie between 0 and 1, got {value}. Leave it out.")
        if not 0 <= self.score_threshold < 1:
            raise ConfigError(
                f"detector.score_threshold must be at least 0 and below 1, got {self.score_threshold}. 0.05 is usual."
            )
        if not 0 < self.negative_iou <= self.positive_iou <= 1:
            raise ConfigError(
                "detector.negative_iou must be above 0 and at most detector.positive_iou, "
                f"got {self.negative_iou} and {self.positive_iou}. 0.4 and 0.5 are usual."
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(
                f"detector.mean and detector.std must be three numbers each, std positive, got {self.mean} "
                f"and {self.std}. Leave them out for ImageNet's."
            )

    @property
    def name(self) -> str:
        """How messages call the detector, such as ``"fcos/resnet18"``."""
        return f"{self.family}/{self.backbone}"

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> DetectorSettings:
        """The settings that `to_dict`, or JSON made of it, holds.

        Raises:
            ConfigError: a key is unknown or missing, or a value cannot be used.
        """
        known = {field.name for field in fields(cls)}
        for key in content:
            if key not in known:
                raise ConfigError(
                    f"The detector's settings must have known keys, got '{key}'. {suggestion(key, known)}"
                )
        for key in ("family", "backbone"):
            if key not in content:
                raise ConfigError(f"The detector's settings must have the key '{key}', got none. Add it.")
        values: dict[str, Any] = {key: tuple(value) if key in _TUPLES else value for key, value in content.items()}
        return cls(**values)


def _check_boxes(settings: DetectorSettings) -> None:
    if settings.box_bins < _FEWEST_BINS:
        raise ConfigError(f"detector.box_bins must be {_FEWEST_BINS} or more, got {settings.box_bins}. 17 is usual.")
    if settings.family == "gfl" and not 0 < settings.box_bias_init < settings.box_bins - 1:
        raise ConfigError(
            f"detector.box_bias_init must lie between 0 and the last of GFL's bins, {settings.box_bins - 1}, got "
            f"{settings.box_bias_init}. Leave it out."
        )
    if settings.anchor_scale <= 0:
        raise ConfigError(f"detector.anchor_scale must be above 0, got {settings.anchor_scale}. Leave it out.")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(
            f"detector.{name} must be one of {', '.join(known)}, got '{value}'. "
            f"{suggestion(str(value), known, listed=True)}"
        )


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"detector.{name} must be 1 or more, got {value}. Leave it out for the default.")


FAMILY_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "fcos": MappingProxyType({}),
        "retinanet": MappingProxyType({"head_norm": "none", "nms_threshold": 0.5}),
        "faster_rcnn": MappingProxyType(
            {
                "strides": (4, 8, 16, 32, 64),
                "nms_threshold": 0.5,
                "anchor_scale": 8.0,
                "anchor_octaves": 1,
                "head_depth": 1,
                "head_norm": "none",
            }
        ),
        "gfl": MappingProxyType({"anchor_scale": 8.0}),
    }
)

_TINY = MappingProxyType({"backbone": "test_resnet", "fpn_channels": 32, "head_depth": 2, "strides": (8, 16, 32)})
_SMALL = MappingProxyType({"backbone": "test_resnet", "fpn_channels": 64, "head_depth": 3, "strides": (8, 16, 32)})

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "fcos/tiny": _TINY,
        "fcos/small": _SMALL,
        "retinanet/tiny": MappingProxyType({**_TINY, "head_norm": "group", "anchor_scale": 2.0}),
        "retinanet/small": MappingProxyType({**_SMALL, "head_norm": "group", "anchor_scale": 2.0}),
        "gfl/tiny": _TINY,
        "gfl/small": _SMALL,
        "faster_rcnn/small": MappingProxyType(
            {
                "backbone": "resnet10t",
                "fpn_channels": 64,
                "strides": (4, 8, 16, 32),
                "anchor_scale": 4.0,
                "roi_channels": 256,
                "roi_samples": 64,
                "rpn_samples": 128,
                "proposals_train": 256,
                "proposals_test": 256,
            }
        ),
    }
)
"""Small detectors that learn from scratch on images of a few hundred pixels, by name."""


def family_settings(family: str, backbone: str) -> DetectorSettings:
    """The defaults of a family on a backbone.

    Raises:
        ConfigError: the family is unknown.
    """
    if family not in FAMILIES:
        raise ConfigError(
            f"The detector's family must be one of {', '.join(FAMILIES)}, got '{family}'. "
            f"{suggestion(family, FAMILIES, listed=True)}"
        )
    return DetectorSettings(family=family, backbone=backbone, **FAMILY_DEFAULTS[family])  # type: ignore[arg-type]


def parse_detector(text: str) -> DetectorSettings:
    """The settings behind a short name: ``family/preset`` or ``family/timm-backbone``.

    Args:
        text: such as ``"fcos/tiny"`` or ``"retinanet/resnet18"``.

    Raises:
        ConfigError: no slash, an unknown family, or neither a preset nor a timm backbone.

    Example:
        >>> detdistill.parse_detector("retinanet/resnet18").name
        'retinanet/resnet18'
    """
    family, slash, rest = text.partition("/")
    if not slash or not rest:
        raise ConfigError(
            f"A detector must be written FAMILY/BACKBONE or FAMILY/PRESET, got '{text}'. "
            "Write for example fcos/resnet18."
        )
    base = family_settings(family, rest)
    if text in PRESETS:
        return replace(base, **PRESETS[text])
    check_backbone(rest, presets=tuple(name.partition("/")[2] for name in PRESETS if name.startswith(f"{family}/")))
    return base


def check_backbone(name: str, *, presets: tuple[str, ...] = ()) -> None:
    """Refuses a name that timm does not know.

    Args:
        name: a timm model name, a pretrained tag (``name.tag``) allowed.
        presets: further names to suggest.

    Raises:
        ConfigError: with the closest known names.
    """
    import timm

    if timm.is_model(name):
        return
    closest = suggestion(name, (*presets, *timm.list_models()))
    if closest.startswith("Known"):
        closest = f"{suggestion('', presets) if presets else ''} See timm.list_models() for all.".strip()
    raise ConfigError(f"The detector's backbone must be a preset or a timm model, got '{name}'. {closest}")
