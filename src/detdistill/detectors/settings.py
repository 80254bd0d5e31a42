"""What every detector is built from, whatever its family; the families' own settings stand beside their code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from detdistill.errors import ConfigError, suggestion, typed
from detdistill.settings import PLACE
from detdistill.settings.bounds import Share, Within

Norm = Literal["batch", "frozen", "frozen_statistics", "group"]
FpnNorm = Literal["none", "batch", "group"]
HeadNorm = Literal["none", "group"]

Depth = Annotated[int, Within(0, 64)]
Strides = tuple[Annotated[int, Within(2, 4096)], ...]
Boxes = Annotated[int, Within(1, 1e6)]
AnchorSize = Annotated[float, Within(1e-3, 1024)]
AnchorRatios = tuple[Annotated[float, Within(1e-3, 1000)], ...]
Octaves = Annotated[int, Within(1, 64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSettings(ABC):
    """The part of a detector's settings that every detector has; a family derives its own and adds keys.

    Together they decide the architecture, the loss and the detections.

    Attributes:
        family: the tag, a `Literal` of one name with that name as the default.
        mean: subtracted from RGB in [0, 1], per channel; None = what timm says of the `pretrained` weights, and
            ImageNet's for random ones.
        std: what the difference is divided by, per channel; None likewise.
        score_threshold: detections below this score are dropped.
        nms_threshold: of two boxes of a class that overlap more than this, the better stays.
        detections_per_image: most detections an image can have.
    """

    family: str
    mean: tuple[Share, Share, Share] | None = None
    std: tuple[Share, Share, Share] | None = None
    score_threshold: Share = 0.05
    nms_threshold: Share = 0.6
    detections_per_image: Boxes = 100

    named_by: ClassVar[tuple[str, ...]] = ("family",)
    """The keys whose values the detector's name decides, which nobody sets beside it."""

    says_pixels: ClassVar[bool] = True
    """Whether None for `mean` and `std` stands for numbers that are known; False: for what the detector's code has."""

    def __post_init__(self) -> None:
        self.require_one_of("family", (self.tag(),))
        self.require_at_least_one("detections_per_image")
        self.require_between_0_and_1("nms_threshold")
        score = self.score_threshold
        self.require("score_threshold", 0 <= score < 1, "be at least 0 and below 1", remedy="0.05 is usual.")
        self._require_channels()
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
        """How messages call the detector; `catalogue.parse_detector` reads it, such as ``"fcos/resnet18"``."""
        return self.family

    def at_home(self) -> Self:
        """The settings that build the same detector where its weights are at hand: nothing is fetched for it."""
        return self

    def to_dict(self, *, place: Callable[[str], str] = str) -> dict[str, Any]:
        """The settings as JSON can hold them, with `place` made of their paths; `catalogue.settings_of` reads them."""
        found = asdict(self)
        for one in fields(self):
            if PLACE in one.metadata and isinstance(found[one.name], str):
                found[one.name] = place(found[one.name])
        return found

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

    def _require_channels(self) -> None:
        """Refuses `mean` and `std` that are not of pixels in [0, 1]."""
        given = {key: values for key in ("mean", "std") if (values := getattr(self, key)) is not None}
        remedy = "Leave it out for the weights' own."
        if all(len(values) == 3 and all(0 <= value <= 255 for value in values) for values in given.values()):
            # A std of 1 beside a mean above 1 is of pixels up to 255 too.
            scaled = {key: [round(v / 255, 5) for v in one] if max(one) >= 1 else [*one] for key, one in given.items()}
            remedy = f"Divide by 255: {' '.join(f'student.{key}={typed(one)}' for key, one in scaled.items())}."
        for key, values in given.items():
            fits = len(values) == 3 and all(0 <= value <= 1 for value in values) and (key == "mean" or min(values) > 0)
            low = "from 0" if key == "mean" else "above 0"
            hint = remedy if max(values, default=0) > 1 else "Leave it out for the weights' own."
            self.require(key, fits, f"be three numbers {low} to 1, as pixels are", remedy=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class PyramidSettings(DetectorSettings):
    """What a detector is built from that is a timm backbone, a feature pyramid and heads that read it.

    Attributes:
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
    """

    backbone: str
    fpn_channels: Annotated[int, Within(1, 2048)] = 256
    head_depth: Depth = 4
    strides: Strides = (8, 16, 32, 64, 128)
    norm: Norm = "batch"
    fpn_norm: FpnNorm = "none"
    freeze_stages: Annotated[int, Within(0, 4)] = 0
    pretrained: bool | str | None = field(default=None, metadata={PLACE: True})

    named_by: ClassVar[tuple[str, ...]] = ("family", "backbone")

    def __post_init__(self) -> None:
        self.require_one_of("norm", get_args(Norm))
        self.require_one_of("fpn_norm", get_args(FpnNorm))
        self.require_at_least_one("fpn_channels")
        self.require("head_depth", self.head_depth >= 0, "be 0 or more", remedy="2 to 4 is usual.")
        self.require("freeze_stages", 0 <= self.freeze_stages <= 4, "be 0 to 4", remedy="0 trains the whole backbone.")
        doubling = all(coarse == 2 * fine for fine, coarse in zip(self.strides, self.strides[1:], strict=False))
        power = bool(self.strides) and self.strides[0] >= 2 and self.strides[0].bit_count() == 1
        expected = "be powers of two, each twice the one before"
        self.require("strides", doubling and power, expected, remedy="Write for example [8,16,32].")
        DetectorSettings.__post_init__(self)

    @property
    def name(self) -> str:
        """See `DetectorSettings.name`."""
        return f"{self.family}/{self.backbone}"

    def at_home(self) -> Self:
        """See `DetectorSettings.at_home`."""
        return replace(self, pretrained=None)

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
        model = name.partition(".")[0]
        try:
            timm.get_pretrained_cfg(name)
        except RuntimeError as error:
            known = suggestion(name, (model, *timm.list_pretrained(f"{model}.*")))
            raise ConfigError(f"The tag of a backbone must name weights of {model}, got '{name}'. {known}") from error
        return
    closest = suggestion(name, (*presets, *timm.list_models()))
    if closest.startswith("Known"):
        closest = f"{suggestion('', presets) if presets else ''} See timm.list_models() for all.".strip()
    raise ConfigError(f"The detector's backbone must be a preset or a timm model, got '{name}'. {closest}")
