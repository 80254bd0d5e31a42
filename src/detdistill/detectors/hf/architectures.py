"""How each of transformers' detectors is taken apart: maps out of pixels, and what its queries say out of maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from detdistill.detectors.hf.architecture import Architecture, Labels, Said
from detdistill.detectors.hf.deformable import DeformableDetr, shrunk
from detdistill.detectors.hf.objective import Layer, Local, Match, Objective, clamped, parted, varifocal
from detdistill.detectors.hf.whole import TableTransformer, Whole
from detdistill.errors import CapabilityError, ConfigError
from detdistill.types import ClassKind, Pyramid


def _encoded(maps: Sequence[Tensor]) -> Any:
    from transformers.modeling_outputs import BaseModelOutput

    return BaseModelOutput(last_hidden_state=list(maps))


class HybridEncoder(Architecture):
    """RT-DETR, RT-DETRv2 and D-FINE: a hybrid encoder's maps, whose best cells become queries.

    They know no mask: padding is a part of the picture to them. In training they also learn from noisy copies of the
    labels ("denoising").
    """

    scores_cells = True

    @property
    def multiple(self) -> int:  # type: ignore[override]
        """The coarsest map's stride: finer maps are made of coarser ones, twice as large each."""
        return max(self.strides)

    @property
    def strides(self) -> tuple[int, ...]:
        """See `Architecture.strides`."""
        return tuple(self.config.feat_strides)

    @property
    def channels(self) -> int:
        """See `Architecture.channels`."""
        return int(self.config.encoder_hidden_dim)

    def maps(self, model: Any, pixels: Tensor, inside: Tensor) -> Pyramid:
        """See `Architecture.maps`."""
        core = model.model
        found = [one for one, _ in core.backbone(pixels, torch.ones_like(inside))]
        projected = [project(one) for project, one in zip(core.encoder_input_proj, found, strict=True)]
        return Pyramid(tuple(core.encoder(inputs_embeds=projected).last_hidden_state), self.strides)

    def says(self, model: Any, maps: Pyramid, inside: Tensor, labels: Labels | None) -> Said:
        """See `Architecture.says`.

        Raises:
            ConfigError: the images are too small for so many queries.
        """
        cells = sum(level.shape[-2] * level.shape[-1] for level in maps.levels)
        if cells < self.queries and int(self.config.num_feature_levels) == len(maps.levels):
            raise ConfigError(
                f"The images of {self.config.model_type} must have at least as many cells as it has queries, "
                f"{self.queries}, as the best cells become queries, got {cells}. Set "
                f"student.config.num_queries={cells}."
            )
        # Maps that are given are taken for the encoder's: neither backbone nor encoder runs.
        given = {"inputs_embeds": maps.levels[0], "encoder_outputs": _encoded(maps.levels)}
        out = model.model(pixel_values=None, labels=labels, **given)
        noisy = out.denoising_meta_values
        first = 0 if noisy is None else noisy["dn_num_split"][0]
        logits, boxes = out.intermediate_logits, out.intermediate_reference_points
        loss = {
            "logits": logits[:, -1],
            "pred_boxes": boxes[:, -1],
            "outputs_class": logits,
            "outputs_coord": boxes,
            "enc_topk_logits": out.enc_topk_logits,
            "enc_topk_bboxes": out.enc_topk_bboxes,
            "denoising_meta_values": noisy,
            "predicted_corners": out.intermediate_predicted_corners,
            "initial_reference_points": out.initial_reference_points,
        }
        return Said(logits[:, -1, first:], boxes[:, -1, first:], loss, cells=out.enc_outputs_class)

    def weights(self) -> dict[str, float]:
        """See `Architecture.weights`: these models' losses are weighed already."""
        return {"loss_vfl": 1, "loss_bbox": 1, "loss_giou": 1}

    def objective(self) -> Objective:
        """See `Architecture.objective`."""
        config = self.config
        sigmoid = (config.matcher_alpha, config.matcher_gamma) if config.use_focal_loss else None
        return Objective(
            Match(config.matcher_class_cost, config.matcher_bbox_cost, config.matcher_giou_cost, focal=sigmoid),
            config.weight_loss_vfl,
            config.weight_loss_bbox,
            config.weight_loss_giou,
            cost=varifocal(config.focal_loss_alpha, config.focal_loss_gamma),
        )

    def layers(self, said: Mapping[str, Any]) -> list[Layer]:
        """See `Architecture.layers`; the cells that became queries are the last of them."""
        last = Layer(parted(said, "logits", 1), parted(said, "pred_boxes", 1))
        if not self.config.auxiliary_loss:
            return [last]
        logits, boxes = parted(said, "outputs_class", 2), parted(said, "outputs_coord", 2)
        between = [Layer(logits[:, at], boxes[:, at]) for at in range(logits.shape[1] - 1)]
        return [last, *between, Layer(said["enc_topk_logits"], said["enc_topk_bboxes"])]


class DFine(HybridEncoder):
    """D-FINE: a hybrid encoder's, whose layers also say their edges as distributions."""

    def objective(self) -> Objective:
        """See `Architecture.objective`."""
        config = self.config
        local = Local(config.weight_loss_fgl, config.weight_loss_ddf, config.max_num_bins, config.reg_scale, config.up)
        return replace(super().objective(), local=local)

    def layers(self, said: Mapping[str, Any]) -> list[Layer]:
        """See `Architecture.layers`."""
        last, *others = map(clamped, super().layers(said))
        if not others:
            return [last]
        corners, points = parted(said, "predicted_corners", 2), parted(said, "initial_reference_points", 2)
        *between, cells = others
        seen = [replace(one, corners=corners[:, at], points=points[:, at]) for at, one in enumerate(between)]
        return [replace(last, corners=corners[:, -1]), *seen, cells]


class Detr(Architecture):
    """DETR: one map of an encoder, and learnt queries; padding is masked out."""

    kind = ClassKind.SOFTMAX
    own_frame = True

    @property
    def strides(self) -> tuple[int, ...]:
        """See `Architecture.strides`; a dilated backbone's last map is twice as fine."""
        return (16 if self.config.dilation else 32,)

    def maps(self, model: Any, pixels: Tensor, inside: Tensor) -> Pyramid:
        """See `Architecture.maps`."""
        core = model.model
        found, mask = core.backbone(pixels, inside)[-1]
        projected = core.input_projection(found)
        places = self._places(core, projected, mask)
        tokens = core.encoder(
            inputs_embeds=projected.flatten(2).transpose(1, 2),
            attention_mask=mask.flatten(1),
            spatial_position_embeddings=places,
        ).last_hidden_state
        return Pyramid((tokens.transpose(1, 2).reshape(projected.shape),), self.strides)

    def _places(self, core: Any, maps: Tensor, mask: Tensor) -> Tensor:
        found = core.position_embedding(shape=maps.shape, device=maps.device, dtype=maps.dtype, mask=mask)
        places: Tensor = found.flatten(2).transpose(1, 2)
        return places

    def says(self, model: Any, maps: Pyramid, inside: Tensor, labels: Labels | None) -> Said:
        """See `Architecture.says`."""
        core, (only,) = model.model, maps.levels
        mask = shrunk(inside, only.shape[-2:])
        asked = core.query_position_embeddings.weight.unsqueeze(0).repeat(only.shape[0], 1, 1)
        out = core.decoder(
            inputs_embeds=torch.zeros_like(asked),
            attention_mask=None,
            spatial_position_embeddings=self._places(core, only, mask),
            object_queries_position_embeddings=asked,
            encoder_hidden_states=only.flatten(2).transpose(1, 2),
            encoder_attention_mask=mask.flatten(1),
        )
        logits = model.class_labels_classifier(out.last_hidden_state)
        boxes = model.bbox_predictor(out.last_hidden_state).sigmoid()
        loss = {"logits": logits, "pred_boxes": boxes, "outputs_class": None, "outputs_coord": None}
        if self.config.auxiliary_loss:
            layers = out.intermediate_hidden_states
            loss["outputs_class"] = model.class_labels_classifier(layers)
            loss["outputs_coord"] = model.bbox_predictor(layers).sigmoid()
        return Said(logits, boxes, loss, batch_axes={"outputs_class": 1, "outputs_coord": 1})


@dataclass(frozen=True, slots=True)
class TokenMaps(Pyramid):
    """Maps of a model whose queries went through the same layers: their last state."""

    tokens: Tensor | None = None


class Yolos(Architecture):
    """YOLOS: a plain vision transformer whose last tokens are the queries; its maps are the grid of the others.

    It knows no mask: padding is a part of the picture to it. No other maps can be read.
    """

    kind = ClassKind.SOFTMAX
    reads_maps = False
    one_size = "whose position embeddings are stretched to one size"

    @property
    def multiple(self) -> int:  # type: ignore[override]
        """The patches' side."""
        return self.strides[0]

    @property
    def strides(self) -> tuple[int, ...]:
        """See `Architecture.strides`."""
        return (int(self.config.patch_size),)

    @property
    def channels(self) -> int:
        """See `Architecture.channels`."""
        return int(self.config.hidden_size)

    @property
    def queries(self) -> int:
        """See `Architecture.queries`."""
        return int(self.config.num_detection_tokens)

    def maps(self, model: Any, pixels: Tensor, inside: Tensor) -> Pyramid:
        """See `Architecture.maps`."""
        del inside
        tokens = model.vit(pixels).last_hidden_state
        rows, columns = (side // self.multiple for side in pixels.shape[-2:])
        patches = tokens[:, 1 : -self.queries].transpose(1, 2)
        grid = patches.reshape(tokens.shape[0], -1, rows, columns)
        return TokenMaps((grid,), self.strides, tokens[:, -self.queries :])

    def says(self, model: Any, maps: Pyramid, inside: Tensor, labels: Labels | None) -> Said:
        """See `Architecture.says`.

        Raises:
            CapabilityError: the maps are not the model's own.
        """
        if not isinstance(maps, TokenMaps) or maps.tokens is None:
            raise CapabilityError(
                "The maps that YOLOS's queries read must be its own, as they went through its layers together, got "
                "others. Let the teacher read its own features."
            )
        logits, boxes = model.class_labels_classifier(maps.tokens), model.bbox_predictor(maps.tokens).sigmoid()
        loss = {"logits": logits, "pred_boxes": boxes, "outputs_class": None, "outputs_coord": None}
        return Said(logits, boxes, loss)


ARCHITECTURES: Mapping[str, type[Architecture]] = {
    "rt_detr": HybridEncoder,
    "rt_detr_v2": HybridEncoder,
    "d_fine": DFine,
    "detr": Detr,
    "deformable_detr": DeformableDetr,
    "conditional_detr": Whole,
    "dab-detr": Whole,
    "table-transformer": TableTransformer,
    "yolos": Yolos,
}
"""By transformers' own name of the kind of model."""
