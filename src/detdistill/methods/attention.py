"""attention: imitate where both detectors attend, and how cells relate (Zhang and Ma)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.term import LevelTerm, Measure, shared_strides
from detdistill.errors import ConfigError
from detdistill.methods.attention_measures import (
    BLOCK_CHANNELS,
    BLOCK_POOLS,
    MaskedFeatures,
    Norm,
    Norms,
    PooledCells,
    PooledChannels,
    Relations,
)
from detdistill.methods.features import (
    aligner_for,
    on_one_scale,
    recipe_of,
    require_gain,
    require_one_of,
    require_temperature,
)
from detdistill.methods.method import FeatureSettings, Method
from detdistill.methods.parts.align import per_stride
from detdistill.methods.parts.non_local import NonLocalBlock
from detdistill.methods.published import ONE_STAGE, Kind, published
from detdistill.settings.bounds import Gain, Temperature


@dataclass(frozen=True, slots=True)
class PublishedNumbers:
    """What one set of authors used for one kind of detector, at two images a device and one norm over both.

    Attributes:
        features: gain of the masked features.
        pooled: gain of the pooled channels and of the pooled cells.
        relations: gain of the non-local term.
        temperature: of the attentions.
        channel_mask: whether the masked features weigh channels too.
    """

    features: float
    pooled: float
    relations: float
    temperature: float
    channel_mask: bool


_ONE_STAGE = PublishedNumbers(4.2e-4, 2.4e-2, 4.2e-4, temperature=0.1, channel_mask=True)
PUBLISHED_NUMBERS = {
    "zhang_ma": {
        **dict.fromkeys(ONE_STAGE, _ONE_STAGE),
        Kind.TWO_STAGE: PublishedNumbers(7e-5, 4e-3, 7e-5, temperature=0.5, channel_mask=False),
    },
    "aid": {
        **dict.fromkeys(ONE_STAGE, PublishedNumbers(5.6e-4, 2.4e-2, 4.9e-4, temperature=0.1, channel_mask=True)),
        Kind.TWO_STAGE: PublishedNumbers(4e-5, 8e-3, 4e-5, temperature=0.5, channel_mask=True),
    },
    "aid_baseline": {
        **dict.fromkeys(ONE_STAGE, _ONE_STAGE),
        Kind.TWO_STAGE: PublishedNumbers(4e-5, 2e-3, 2e-5, temperature=0.5, channel_mask=True),
    },
}
"""By whose numbers and kind of the student: Zhang and Ma's own code; AID's authors with AID and without it."""


@dataclass(frozen=True, slots=True)
class AttentionSettings(FeatureSettings):
    """Numbers of the recipe `attention`.

    Attributes:
        feature_gain: multiplier of the masked features; None takes the published one of the student's kind (one-
            or two-stage), 0 leaves the term out.
        channel_gain: multiplier of the channels' means; None takes the published one, 0 leaves the term out.
        cell_gain: multiplier of the cells' means; None takes the published one, 0 leaves the term out.
        nonlocal_gain: multiplier of the non-local term; None takes the published one, 0 leaves the term out.
        published: whose numbers None stands for: Zhang and Ma's, those of AID's authors under AID, or those of their
            baseline without it.
        temperature: of the attentions; None takes the published one.
        channel_mask: whether the masked features weigh channels too; None takes what the authors did.
        student_mask: how much the student's attention counts beside the teacher's; 0 is the teacher's alone.
        coupling: one norm per image, or one over the whole batch as the source does.
        normalize: divide each norm by the root of how many numbers it is of, so that it does not grow with image
            size and channels; the published gains, made for the plain norms, are then far too small.
        norm: of the non-local blocks: per image, or over the batch as the source does.
        aligner: what takes the student into the teacher's space: a 1×1 convolution (for pooled maps a linear layer
            and a 3×3 convolution), or nothing at all.
    """

    feature_gain: Gain | None = None
    channel_gain: Gain | None = None
    cell_gain: Gain | None = None
    nonlocal_gain: Gain | None = None
    published: Literal["zhang_ma", "aid", "aid_baseline"] = "zhang_ma"
    temperature: Temperature | None = None
    channel_mask: bool | None = None
    student_mask: Gain = 1.0
    coupling: Literal["image", "batch"] = "image"
    normalize: bool = False
    norm: Literal["instance", "batch"] = "instance"
    aligner: Literal["identity", "conv1x1"] = "conv1x1"


def build_attention(student: DetectorSpec, teacher: DetectorSpec, settings: AttentionSettings) -> Recipe:
    """The student imitates the teacher's features where both attend, their means, and how cells relate to each other.

    Formula:
        M_s = mean of teacher's and student's N · softmax over cells(mean over channels of |F| / τ), detached
        M_c = mean of teacher's and student's C · softmax over channels(mean over cells of |F| / τ), detached
        L = a · Σ_levels √(Σ (A(S) − T)² · M_s · M_c)
          + b · Σ_levels ‖Linear(mean over cells of S) − mean over cells of T‖
          + c · Σ_levels ‖Conv3×3(mean over channels of S) − mean over channels of T‖
          + d · Σ_levels ‖A'(NL_S(S)) − NL_T(T)‖, NL(x) = x + norm(W g(x) φ(x)ᵀ θ(x) / keys)
        a, b = c, d, τ before the √2 below: one-stage 4.2e-4, 2.4e-2, 4.2e-4, 0.1; two-stage 7e-5, 4e-3, 7e-5, 0.5
        and no M_c; `published: aid` 5.6e-4, 2.4e-2, 4.9e-4, 0.1; two-stage 4e-5, 8e-3, 4e-5, 0.5;
        `published: aid_baseline` as the first; two-stage 4e-5, 2e-3, 2e-5, 0.5

    Raises:
        CapabilityError: the detectors share no stride, or the identity aligner meets different channels.
        ConfigError: an unknown choice, a negative gain or mask, a temperature of 0 or less, all gains 0, or a
            `channel_gain` on standardized features.

    Needs:
        Feature pyramids with at least one shared stride; any two detectors have them.

    Source:
        Zhang and Ma, Improve Object Detection with Feature-based Knowledge Distillation: Towards Accurate and
        Efficient Detectors, ICLR 2021; numbers from the authors' code, those of `published: aid` and
        `aid_baseline` from the configurations of Lan and Tian (AID).

    Differs from the source:
        Norms are each image's own and the non-local blocks normalise each image alone (`coupling: batch` and
        `norm: batch` are the source's; equal at batch size 1). The published gains belong to norms over two
        images, so the default ones are √2 times as large (not with `coupling: batch`, nor with `normalize`, which
        is ours). Attention, means, keys and statistics leave padding out. Where the channels of student and
        teacher differ, the teacher's attention alone weighs the channels; where their grids differ, the student's
        maps are resized first. A pool larger than the map is made smaller, and so are inner channels of the non-local
        blocks that are more than the map has. Where the authors' code and the paper's text seem to part, the code is
        followed: the mean of two softmaxes instead of one softmax of the sum, and these temperatures, which the text
        has the other way round. `features: standardized` is ours, of the student's maps before alignment where these
        are read; every channel then has mean 0, and the second term is left out.
    """
    require_one_of("published", settings.published, ("zhang_ma", "aid", "aid_baseline"))
    require_one_of("coupling", settings.coupling, ("image", "batch"))
    require_one_of("norm", settings.norm, ("instance", "batch"))
    require_one_of("aligner", settings.aligner, ("identity", "conv1x1"))
    require_gain("student_mask", settings.student_mask)
    numbers, notes = published("attention", student, PUBLISHED_NUMBERS[settings.published])
    temperature = numbers.temperature if settings.temperature is None else settings.temperature
    require_temperature(temperature, remedy="Give one such as 0.1.")
    norm = Norms(coupled=settings.coupling == "batch", normalize=settings.normalize)
    features = MaskedFeatures(
        norm,
        temperature=temperature,
        channel_mask=numbers.channel_mask if settings.channel_mask is None else settings.channel_mask,
        student_mask=settings.student_mask,
    )
    strides, identity = shared_strides(student, teacher), settings.aligner == "identity"
    ours, theirs = student.maps.at, teacher.maps.at
    # Made in this order, whichever gains are 0: what each draws at random is the same in every choice of terms.
    align = aligner_for(student, teacher, settings.aligner, strides=strides)
    channels = per_stride(strides, lambda one: nn.Identity() if identity else nn.Linear(ours(one), theirs(one)))
    cells = per_stride(strides, lambda _: nn.Identity() if identity else nn.Conv2d(1, 1, 3, padding=1))
    terms: tuple[tuple[str, Measure, nn.Module | None, float | None, float], ...] = (
        ("features", features, align, settings.feature_gain, numbers.features),
        ("channels", PooledChannels(channels, norm), None, settings.channel_gain, numbers.pooled),
        ("cells", PooledCells(cells, norm), None, settings.cell_gain, numbers.pooled),
        ("nonlocal", _relations(student, teacher, settings, norm), None, settings.nonlocal_gain, numbers.relations),
    )
    # The published gains are for a norm over two images: √2 times the typical norm of one.
    factor = math.sqrt(2) if settings.coupling == "image" and not settings.normalize else 1.0
    weighted, standardized = [], on_one_scale(settings)
    for name, measure, aligner, given, default in terms:
        gain = factor * default if given is None else given
        require_gain(f"gain of attention.{name}", gain)
        if standardized and name == "channels":
            _require_no_channel_gain(given)
            gain = 0.0
        term = LevelTerm(measure, strides=strides, align=aligner, standardized=standardized)
        weighted.append(WeightedTerm(name=f"attention.{name}", term=term, gain=gain))
    return recipe_of("attention", weighted, notes=notes if None in [given for *_, given, _ in terms] else ())


def _require_no_channel_gain(given: float | None) -> None:
    if given:
        raise ConfigError(
            f"The recipe's channel_gain must be 0 on standardized features, whose channels all have mean 0, got "
            f"{given}. Leave it out, or write features=raw."
        )


def _relations(student: DetectorSpec, teacher: DetectorSpec, settings: AttentionSettings, norm: Norm) -> Relations:
    strides = shared_strides(student, teacher)
    position = {s: min(student.maps.strides.index(s), len(BLOCK_POOLS) - 1) for s in strides}

    def blocks(channels: Callable[[int], int]) -> nn.ModuleDict:
        return per_stride(
            strides,
            lambda stride: NonLocalBlock(
                channels(stride),
                inner=BLOCK_CHANNELS[position[stride]],
                pool=BLOCK_POOLS[position[stride]],
                batch_norm=settings.norm == "batch",
            ),
        )

    students, teachers = blocks(student.maps.at), blocks(teacher.maps.at)
    return Relations(students, teachers, aligner_for(student, teacher, settings.aligner, strides=strides), norm)


METHOD = Method(name="attention", settings=AttentionSettings, build=build_attention)
