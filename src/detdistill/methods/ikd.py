"""ikd: any recipe, on samples augmented by what they show, plus imitation on adversarial twins."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from detdistill.data.sample_specific import SampleSpecific, SampleSpecificSettings
from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.term import LevelTerm, shared_strides
from detdistill.distillation.view import View
from detdistill.errors import ConfigError
from detdistill.methods.attack import AdversarialTwins, AttackSettings
from detdistill.methods.composition import MethodSettings, wrapped
from detdistill.methods.features import aligner_for, cellwise, require_gain, require_same_classes
from detdistill.methods.fgd import FGDSettings
from detdistill.methods.method import Method, ScheduledSettings
from detdistill.methods.parts import compare
from detdistill.methods.parts.normalize import plain_sum
from detdistill.methods.published import ONE_STAGE, Kind, published
from detdistill.settings import once
from detdistill.settings.bounds import Factor, Gain, Pixels, Share, Within

ADVERSARIAL = "adversarial"
"""The name of the twin that the recipe looks at."""

TERM = "ikd.adversarial"

PUBLISHED_GAINS = {**dict.fromkeys(ONE_STAGE, 1e-5), Kind.TWO_STAGE: 2.5e-7}
"""Of the adversarial term by kind of detector, from the authors' configurations."""

_TWO_STAGE_LEVELS = 4


@dataclass(frozen=True, slots=True)
class IKDSettings(ScheduledSettings):
    """Numbers of the wrapper `ikd`.

    Attributes:
        recipe: settings of the method that it wraps.
        adversarial: whether the student imitates the teacher on adversarial twins.
        adversarial_gain: multiplier of that term; None takes the published one of the student's kind, 0 leaves the
            term out.
        eps_255: how far the attack moves a pixel at most, in 1/255 of the range.
        step_255: how far it moves a pixel in one iteration, in 1/255 of the range.
        attack_steps: iterations of the attack.
        attack_momentum: how much of the direction so far the attack keeps, at least 0.
        diversity: probability that an iteration of the attack looks at a shrunk copy.
        smallest_scale: the least factor on that copy's height and width.
        bounds: what the attack stays within: ``"pixel"`` or the ``"source"``'s rule; see `AttackSettings`.
        augment: whether samples are augmented.
        noise_probability: of noise on an image whose boxes are all small.
        noise_sd: its standard deviation, on pixel values in [0, 1].
        smallest_crop: the least share of each side that a crop leaves of any other image.
        small_px: a box is small if its area is less than the square of this, in pixels of the stored image.
        until: share of the run, above 0 and at most 1, after which both are off and the wrapped recipe is alone.
        decay: how the adversarial gain falls until then: not at all, or to 0 in a straight line or along half a cosine.
    """

    recipe: MethodSettings = wrapped(FGDSettings)
    adversarial: bool = True
    adversarial_gain: Gain | None = None
    eps_255: Annotated[float, Within(0, 255)] = 8.0
    step_255: Annotated[float, Within(0, 255)] = 2.0
    attack_steps: Annotated[int, Within(1, 1000)] = 5
    attack_momentum: Factor = field(default=1.0, metadata=once("decay"))
    diversity: Share = 0.5
    smallest_scale: Share = 0.9
    bounds: Literal["pixel", "source"] = "pixel"
    augment: bool = True
    noise_probability: Share = 0.3
    noise_sd: Factor = 0.08
    smallest_crop: Share = 0.8
    small_px: Pixels = 32.0
    until: Share = field(default=2 / 3, kw_only=True)


def wrap_ikd(recipe: Recipe, student: DetectorSpec, teacher: DetectorSpec, settings: IKDSettings) -> Recipe:
    """The student also imitates the teacher where it is fooled, and every sample is augmented by its objects' sizes.

    The wrapped recipe's terms stay as they are, first; `ikd.adversarial` is on the view "adversarial" and owns a 1×1
    convolution per level where the detectors' channels differ.

    Formula:
        L = L_recipe(S, T; x') + a · Σ_levels Σ_channels Σ_cells (A(S(x_adv)) − T(x_adv))², the mean over the images
        x' = x with noise (probability 0.3) if all boxes are smaller than 32 × 32 px, else cropped to ≥ 80 % a side
        x_adv = x moved by at most 8/255 so that the teacher's class loss grows (5 momentum sign steps of 2/255)
        a = 1e-5 (two-stage: 2.5e-7); on for the first two thirds of the run

    Raises:
        CapabilityError: the detectors share no stride, or the teacher that is attacked has other classes.
        ConfigError: the recipe has a change to samples or adversarial twins of its own, as another `ikd` would, or
            a number is out of its range.

    Needs:
        What the wrapped recipe needs; feature pyramids with a shared stride; a teacher that reports its class loss
        per image.

    Source:
        Liang et al., Exploring Inconsistent Knowledge Distillation for Object Detection with Data Augmentation,
        ACM MM 2023; numbers from the authors' configurations.

    Differs from the source:
        The attack's distances are in 1/255 of the pixel range; `bounds: source` has the source's numbers and clipping,
        but on images in [0, 1] where the source's are normalised (equal where all channels have one standard
        deviation). Its shrunk copies keep their ratio and their boxes, framed by the image's mean colour; padding is
        left out. A crop that leaves no box is drawn again, at last given up, where the source drops the image; boxes
        that a crop leaves too small are dropped. Crops come before the resize, where the source's one-stage pipelines
        crop after resize and flip; a twin undergoes its own image's crop, flip and resize, where the source crops it
        elsewhere. From the cache it is its image plus the attack's change brought back to the stored size, where the
        source brings back the whole image; made on the fly it starts from the augmented image, noise included. On the
        second view the student's batch-norm layers normalise by the twins' own statistics and keep their running
        statistics, where the source lets the twins change them; not so in its RetinaNet, whose backbone keeps to its
        stored statistics on both views (norm=frozen_statistics). The source's twins went through JPEG on their way,
        ours are stored without loss.
    """
    gain, notes = published("ikd", student, PUBLISHED_GAINS)
    if settings.adversarial_gain is not None:
        gain, notes = settings.adversarial_gain, ()
    require_gain("adversarial_gain", gain)
    attack = AttackSettings(
        eps_255=settings.eps_255,
        step_255=settings.step_255,
        steps=settings.attack_steps,
        decay=settings.attack_momentum,
        diversity=settings.diversity,
        smallest_scale=settings.smallest_scale,
        bounds=settings.bounds,
    )
    samples = SampleSpecificSettings(
        noise_probability=settings.noise_probability,
        noise_sd=settings.noise_sd,
        smallest_crop=settings.smallest_crop,
        small_px=settings.small_px,
    )
    _require_no_ikd(recipe)
    wrapped = replace(recipe, name=f"ikd({recipe.name})")
    if settings.augment:
        wrapped = replace(wrapped, sample_transform=SampleSpecific(samples), transform_until=settings.until)
    if settings.adversarial and gain > 0:
        remedy = "Write ikd(..., adversarial=false) to change the samples alone."
        require_same_classes(student, teacher, method="ikd", remedy=remedy)
        term = WeightedTerm(
            name=TERM,
            term=_adversarial_term(student, teacher),
            gain=gain,
            view=View(ADVERSARIAL),
        )
        wrapped = replace(
            wrapped,
            terms=(*recipe.terms, term),
            twins={**recipe.twins, ADVERSARIAL: AdversarialTwins(attack)},
            notes=(*recipe.notes, *notes),
        )
    return wrapped


def _require_no_ikd(recipe: Recipe) -> None:
    names = {weighted.name for weighted in recipe.terms}
    if recipe.sample_transform is not None or ADVERSARIAL in recipe.twins or TERM in names:
        raise ConfigError(
            f"The recipe that ikd wraps must have neither a change to samples nor adversarial twins of its own, got "
            f"'{recipe.name}', which has. Wrap with ikd once."
        )


def _adversarial_term(student: DetectorSpec, teacher: DetectorSpec) -> LevelTerm:
    last = _TWO_STAGE_LEVELS if student.two_stage else None
    strides = shared_strides(student, teacher, last=last)
    align = aligner_for(student, teacher, "auto", strides=strides)
    return LevelTerm(cellwise(compare.squared_sums, plain_sum), strides=strides, align=align)


METHOD = Method(name="ikd", settings=IKDSettings, build=wrap_ikd)
