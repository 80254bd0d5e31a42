"""What every detector is built from, whatever its family; the families' own settings stand beside their code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from detdistill.errors import ConfigError, suggestion
from detdistill.settings import PLACE

Norm = Literal["batch", "frozen", "frozen_statistics", "group"]
FpnNorm = Literal["none", "batch", "group"]
HeadNorm = Literal["none", "group"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSettings(ABC):
    """The part of a detector's settings that all families share; a family derives its own and adds keys.

    Together they decide the architecture, the loss and the detections.

    Attributes:
        family: the tag, a `Literal` of one name with that name as the default.
        backbone: a timm model name.
        fpn_channels: channels of every pyramid level.
        head_depth: convolutions before the prediction layers of the heads that read the pyramid.
        strides: pixels per cell of every level, fine to coarse, each twice the one before.
        norm: the backbone's: "batch" as it comes; "frozen_statistics" = batch-norm that always uses its stored
            statistics, while its scale and shift learn (what most papers do with ImageNet weights and small batches);
            "frozen" = neither changes; "group" = group-norm in its place.
        fpn_norm: normalisation after the pyramid's convolutions; "none" is torchvision's.
        freeze_stages: 0 = train everything; n = the backbone keeps weights and statistics up to maps of stride 2^(n+1).
        pretrained: None = random weights; True = timm's own, downloaded; a path = a state dict in timm's names.
        mean: subtracted from RGB in [0, 1], per channel; the difference is divided by `std`.
        score_threshold: detections below this score are dropped.
        nms_threshold: of two boxes of a class that overlap more than this, the better stays.
        detections_per_image: most detections an image can have.
    """

    family: str
    backbone: str
    fpn_channels: int = 256
    head_depth: int = 4
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    norm: Norm = "batch"
    fpn_norm: FpnNorm = "none"
    freeze_stages: int = 0
    pretrained: bool | str | None = field(default=None, metadata={PLACE: True})
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    score_threshold: float = 0.05
    nms_threshold: float = 0.6
    detections_per_image: int = 100

    def __post_init__(self) -> None:
        self.require_one_of("family", (self.tag(),))
        self.require_one_of("norm", get_args(Norm))
        self.require_one_of("fpn_norm", get_args(FpnNorm))
        self.require_at_least_one("fpn_channels", "detections_per_image")
        self.require_between_0_and_1("nms_threshold")
        self.require("head_depth", self.head_depth >= 0, "be 0 or more", remedy="2 to 4 is usual.")
        self.require("freeze_stages", 0 <= self.freeze_stages <= 4, "be 0 to 4", remedy="0 trains the whole backbone.")
        doubling = all(coarse == 2 * fine for fine, coarse in zip(self.strides, self.strides[1:], strict=False))
        power = bool(self.strides) and self.strides[0] >= 2 and self.strides[0].bit_count() == 1
        expected = "be powers of two, each twice the one before"
        self.require("strides", doubling and power, expected, remedy="Write for example [8,16,32].")
        score = self.score_threshold
        self.require("score_threshold", 0 <= score < 1, "be at least 0 and below 1", remedy="0.05 is usual.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(
                f"student.mean and student.std must be three numbers each, std positive, got {self.mean} "
                f"and {self.std}. Leave them out for ImageNet's."
            )
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Refuses values of the family's own keys with a `ConfigError` that names the key; runs at every making."""

    @classmethod
    def tag(cls) -> str:
        """The family's name: the default of the key `family`."""
        return next(str(one.default) for one in fields(cls) if one.name == "family")

    @property
    def name(self) -> str:
        """How messages call the detector, such as ``"fcos/resnet18"``."""
        return f"{self.family}/{self.backbone}"

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON can hold them; `catalogue.settings_of` reads them back."""
        return asdict(self)

    def require(self, key: str, fits: bool, expected: str, *, remedy: str = "Leave it out.") -> None:
        """Refuses the value of a key that does not fit, with what it must be instead."""
        if not fits:
            raise ConfigError(f"student.{key} must {expected}, got {getattr(self, key)}. {remedy}")

    def require_one_of(self, key: str, known: Sequence[str]) -> None:
        """Refuses a word that is none of `known`."""
        value = str(getattr(self, key))
        if value not in known:
            remedy = suggestion(value, known, listed=True)
            raise ConfigError(f"student.{key} must be one of {', '.join(known)}, got '{value}'. {remedy}")

    def require_at_least_one(self, *keys: str) -> None:
        """Refuses counts below 1."""
        for key in keys:
            self.require(key, getattr(self, key) >= 1, "be 1 or more", remedy="Leave it out for the default.")

    def require_between_0_and_1(self, *keys: str) -> None:
        """Refuses shares that are 0 or less, or 1 or more."""
        for key in keys:
            self.require(key, 0 < getattr(self, key) < 1, "lie between 0 and 1")

    def require_dense_head(self) -> None:
        """Refuses values of the keys that every dense head has: `head_norm`, `candidates_per_level`, `class_prior`."""
        self.require_one_of("head_norm", get_args(HeadNorm))
        self.require_at_least_one("candidates_per_level")
        self.require_between_0_and_1("class_prior")


def check_backbone(name: str, *, presets: tuple[str, ...] = ()) -> None:
    """Refuses a name, a pretrained tag (``name.tag``) allowed, that timm does not know.

    Raises:
        ConfigError: with the closest known names, `presets` among them.
    """
    import timm

    if timm.is_model(name):
        return
    closest = suggestion(name, (*presets, *timm.list_models()))
    if closest.startswith("Known"):
        closest = f"{suggestion('', presets) if presets else ''} See timm.list_models() for all.".strip()
    raise ConfigError(f"The detector's backbone must be a preset or a timm model, got '{name}'. {closest}")
