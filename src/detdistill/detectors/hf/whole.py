"""Models that are run as a whole: what their queries say is heard on the way, beside the encoder's map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from detdistill.detectors.hf.architecture import Architecture, Labels, Said
from detdistill.errors import CapabilityError
from detdistill.types import ClassKind, Pyramid


@dataclass(frozen=True, slots=True)
class HeardMaps(Pyramid):
    """Maps of a model that said at once what its queries say of them."""

    said: Said | None = None


class Whole(Architecture):
    """Conditional DETR and DAB-DETR: one map of an encoder, and queries that move to where they look.

    Padding is masked out. The queries speak as the maps are made, so that no other maps can be read.
    """

    own_frame = True
    reads_maps = False
    one_size = "whose model runs as a whole"

    @property
    def strides(self) -> tuple[int, ...]:
        """See `Architecture.strides`; a dilated backbone's last map is twice as fine."""
        return (16 if self.config.dilation else 32,)

    @property
    def channels(self) -> int:
        """See `Architecture.channels`."""
        return int(self.config.hidden_size)

    @property
    def queries(self) -> int:
        """See `Architecture.queries`."""
        return int(self.config.num_queries) * max(1, int(getattr(self.config, "num_patterns", 0)))

    def maps(self, model: Any, pixels: Tensor, inside: Tensor) -> Pyramid:
        """See `Architecture.maps`."""
        with _hearing(model) as heard:
            model(pixel_values=pixels, pixel_mask=inside, labels=[])
        (stride,) = self.strides
        rows, columns = (-(-side // stride) for side in pixels.shape[-2:])
        grid = heard["tokens"].transpose(1, 2).reshape(pixels.shape[0], -1, rows, columns)
        loss = {name: heard[name] for name in ("logits", "pred_boxes", "outputs_class", "outputs_coord")}
        axes = {"outputs_class": 1, "outputs_coord": 1}
        return HeardMaps((grid,), self.strides, Said(heard["logits"], heard["pred_boxes"], loss, batch_axes=axes))

    def says(self, model: Any, maps: Pyramid, inside: Tensor, labels: Labels | None) -> Said:
        """See `Architecture.says`.

        Raises:
            CapabilityError: the maps are not the model's own.
        """
        if not isinstance(maps, HeardMaps) or maps.said is None:
            raise CapabilityError(
                f"The maps that the queries of {self.config.model_type} read must be its own, as it runs as a whole, "
                "got others. Let the teacher read its own features."
            )
        return maps.said


class TableTransformer(Whole):
    """Table Transformer: DETR with its norms before each layer."""

    kind = ClassKind.SOFTMAX


@contextmanager
def _hearing(model: Any) -> Iterator[dict[str, Any]]:
    """Within, what the model's encoder says and what its loss is given is kept; the loss is not computed."""
    heard = dict[str, Any]()

    def kept(logits: Tensor, *rest: Any) -> tuple[None, None, None]:
        _, _, boxes, _, *layers = rest  # labels, device, boxes, configuration
        classes, places = layers or (None, None)
        heard.update(logits=logits, pred_boxes=boxes, outputs_class=classes, outputs_coord=places)
        return None, None, None

    before = vars(model).get("_loss_function")
    hook = model.model.encoder.register_forward_hook(lambda _, __, said: heard.update(tokens=said[0]))
    model.loss_function = kept
    try:
        yield heard
    finally:
        hook.remove()
        del model._loss_function
        if before is not None:
            model.loss_function = before
