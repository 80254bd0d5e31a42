"""What every kind of detector of transformers' is asked for, one kind of model a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from detdistill.detectors.hf.objective import Layer, Match, Objective, focal
from detdistill.types import ClassKind, Pyramid

Labels = list[dict[str, Tensor]]
"""Class slots and boxes (centre, width and height as shares of the frame) of each image, as transformers has them."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a model's queries said of a batch.

    Attributes:
        logits: of the last layer, without the queries that are there for training alone.
        boxes: centre, width and height, as shares of the frame.
        loss: arguments of the model's own loss, logits and boxes among them.
        batch_axes: where the images lie in those of them that do not begin with them.
        cells: logits of every class at every cell of the maps, where the model scores them.
    """

    logits: Float[Tensor, "b q s"]
    boxes: Float[Tensor, "b q 4"]
    loss: Mapping[str, Any]
    batch_axes: Mapping[str, int] = field(default_factory=dict)
    cells: Float[Tensor, "b n s"] | None = None

    def of_image(self, index: int) -> dict[str, Any]:
        """The loss's arguments for one image alone."""

        def part(name: str, value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.narrow(self.batch_axes.get(name, 0), index, 1)
            if name == "denoising_meta_values" and value is not None:
                return {**value, "dn_positive_idx": value["dn_positive_idx"][index : index + 1]}
            return value

        return {name: part(name, value) for name, value in self.loss.items()}


class Architecture(ABC):
    """One kind of model, without weights of its own.

    Attributes:
        kind: what its class logits say.
        multiple: height and width of its images are multiples of it, in pixels.
        own_frame: whether it is told where an image ends, so that boxes are shares of the image alone; else they are
            shares of the whole padded grid.
        reads_maps: whether what its queries say can be had of any maps of its layout.
        scores_cells: whether it scores the classes at every cell of its maps.
        one_size: why it is a graph for images of one size alone; empty where it is one for any.
    """

    kind: ClassKind = ClassKind.SIGMOID
    multiple: int = 1
    own_frame: bool = False
    reads_maps: bool = True
    scores_cells: bool = False
    one_size: str = ""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    @abstractmethod
    def strides(self) -> tuple[int, ...]:
        """Pixels a cell of the maps that are shown, fine to coarse."""

    @property
    def channels(self) -> int:
        """Of every map."""
        return int(self.config.d_model)

    @property
    def queries(self) -> int:
        """How many boxes it says of an image."""
        return int(self.config.num_queries)

    @property
    def draws(self) -> bool:
        """Whether training draws at random."""
        return any(getattr(self.config, name, 0) > 0 for name in ("num_denoising", "dropout", "attention_dropout"))

    @abstractmethod
    def maps(self, model: Any, pixels: Float[Tensor, "b 3 h w"], inside: Float[Tensor, "b h w"]) -> Pyramid:
        """The encoder's maps of normalised images; `inside` is 1 where an image is. Gradients flow."""

    @abstractmethod
    def says(self, model: Any, maps: Pyramid, inside: Float[Tensor, "b h w"], labels: Labels | None) -> Said:
        """What the queries say of maps. Gradients flow.

        Args:
            labels: class slots and boxes of each image; what is learnt from them beside the loss needs them.
        """

    def weights(self) -> dict[str, float]:
        """What multiplies the losses that the model's loss gives by name; those of its last layer alone."""
        config = self.config
        return {"loss_ce": 1, "loss_bbox": config.bbox_loss_coefficient, "loss_giou": config.giou_loss_coefficient}

    def objective(self) -> Objective:
        """The model's own loss for objects that count by a weight."""
        config, weights = self.config, self.weights()
        softmax = self.kind is ClassKind.SOFTMAX
        match = Match(config.class_cost, config.bbox_cost, config.giou_cost)
        gains = (weights["loss_ce"], weights["loss_bbox"], weights["loss_giou"])
        if softmax:
            return Objective(replace(match, focal=None), *gains, nothing=config.eos_coefficient)
        return Objective(match, *gains, cost=focal(config.focal_alpha))

    def layers(self, said: Mapping[str, Any]) -> list[Layer]:
        """What each layer's queries say, without those of noisy labels, of the loss's arguments; the last first."""
        last = Layer(said["logits"], said["pred_boxes"])
        if said.get("outputs_class") is None or not self.config.auxiliary_loss:
            return [last]
        return [last, *map(Layer, said["outputs_class"][:-1], said["outputs_coord"][:-1])]
