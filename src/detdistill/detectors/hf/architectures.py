"""How each of transformers' detectors is taken apart: maps out of pixels, and what its queries say out of maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from detdistill.detectors.hf.architecture import Architecture, Labels, Said
from detdistill.detectors.hf.objective import Layer, Local, Match, Objective, clamped, parted, varifocal
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


def _shrunk(inside: Tensor, grid: Sequence[int]) -> Tensor:
    """Where the image is, on the cells of a map: as the models see it, by the nearest pixel."""
    return torch.nn.functional.interpolate(inside[None].float(), size=tuple(grid)).to(torch.bool)[0]


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
        mask = _shrunk(inside, only.shape[-2:])
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


class DeformableDetr(Architecture):
    """Deformable DETR: an encoder over maps of several strides; padding is masked out."""

    own_frame = True

    @property
    def strides(self) -> tuple[int, ...]:
        """See `Architecture.strides`: the backbone's last, and coarser ones that are made of its coarsest."""
        levels, last = int(self.config.num_feature_levels), 16 if self.config.dilation else 32
        if levels == 1:
            return (last,)
        return tuple(stride for stride in (8, 16) if stride < last) + tuple(last * 2**at for at in range(levels - 2))

    def maps(self, model: Any, pixels: Tensor, inside: Tensor) -> Pyramid:
        """See `Architecture.maps`."""
        core = model.model
        found = core.backbone(pixels, inside)
        sources = [project(one) for project, (one, _) in zip(core.input_proj, found, strict=False)]
        for project in list(core.input_proj)[len(found) :]:
            sources.append(project(found[-1][0] if len(sources) == len(found) else sources[-1]))
        grid = _Grid(core, sources, inside)
        places = []
        for level, (one, mask) in enumerate(zip(sources, grid.masks, strict=True)):
            place = core.position_embedding(shape=one.shape, device=one.device, dtype=one.dtype, mask=mask)
            places.append(place.flatten(2).transpose(1, 2) + core.level_embed[level])
        encoder, points = core.encoder, grid.points()
        tokens = torch.nn.functional.dropout(_flat(sources), p=encoder.dropout, training=encoder.training)
        for layer in encoder.layers:
            tokens = layer(
                tokens,
                spatial_position_embeddings=torch.cat(places, 1),
                reference_points=points,
                **grid.said("attention_mask", ratios=False),
            )
        cells = [height * width for height, width in grid.shapes]
        levels = [
            one.transpose(1, 2).reshape(source.shape)
            for one, source in zip(tokens.split(cells, dim=1), sources, strict=True)
        ]
        return Pyramid(tuple(levels), self.strides)

    def says(self, model: Any, maps: Pyramid, inside: Tensor, labels: Labels | None) -> Said:
        """See `Architecture.says`."""
        core, config = model.model, self.config
        grid, tokens = _Grid(core, maps.levels, inside), _flat(maps.levels)
        if config.two_stage:
            target, asked, points = self._proposed(core, tokens, grid)
        else:
            asked, target = core.query_position_embeddings.weight.split(config.d_model, dim=1)
            asked, target = (one.unsqueeze(0).expand(tokens.shape[0], -1, -1) for one in (asked, target))
            points = core.reference_points(asked).sigmoid()
        out = core.decoder(
            inputs_embeds=target,
            object_queries_position_embeddings=asked,
            encoder_hidden_states=tokens,
            reference_points=points,
            **grid.said("encoder_attention_mask"),
        )
        layers, refined = out.intermediate_hidden_states, out.intermediate_reference_points
        logits, boxes = [], []
        for at in range(layers.shape[1]):
            before = torch.special.logit((points if at == 0 else refined[:, at - 1]).clamp(0, 1), eps=1e-5)
            moved = model.bbox_embed[at](layers[:, at])
            moved = moved + torch.nn.functional.pad(before, (0, 4 - before.shape[-1]))
            logits.append(model.class_embed[at](layers[:, at]))
            boxes.append(moved.sigmoid())
        loss = {
            "logits": logits[-1],
            "pred_boxes": boxes[-1],
            "outputs_class": torch.stack(logits),
            "outputs_coord": torch.stack(boxes),
        }
        return Said(logits[-1], boxes[-1], loss, batch_axes={"outputs_class": 1, "outputs_coord": 1})

    def _proposed(self, core: Any, tokens: Tensor, grid: _Grid) -> tuple[Tensor, Tensor, Tensor]:
        """What a two-stage one begins with: contents, places and boxes of its best cells."""
        cells, places = core.gen_encoder_output_proposals(tokens, ~grid.mask, grid.shapes)
        scores = core.decoder.class_embed[-1](cells)[..., 0]
        best = scores.topk(self.config.two_stage_num_proposals, dim=1).indices
        boxes = (core.decoder.bbox_embed[-1](cells) + places).gather(1, best.unsqueeze(-1).repeat(1, 1, 4)).detach()
        said = core.pos_trans_norm(core.pos_trans(core.get_proposal_pos_embed(boxes)))
        asked, target = said.split(self.config.d_model, dim=2)
        return target, asked, boxes.sigmoid()

    @property
    def queries(self) -> int:
        """See `Architecture.queries`."""
        return int(self.config.two_stage_num_proposals if self.config.two_stage else self.config.num_queries)


def _flat(levels: Sequence[Tensor]) -> Tensor:
    return torch.cat([one.flatten(2).transpose(1, 2) for one in levels], 1)


class _Grid:
    """Where the cells of several maps lie, as Deformable DETR's layers are told it."""

    def __init__(self, core: Any, levels: Sequence[Tensor], inside: Tensor) -> None:
        first = levels[0]
        self.shapes = [(one.shape[-2], one.shape[-1]) for one in levels]
        self.masks = [_shrunk(inside, shape) for shape in self.shapes]
        self.mask = torch.cat([one.flatten(1) for one in self.masks], 1)
        sizes = torch.empty((len(self.shapes), 2), dtype=torch.long, device=first.device)
        for level, sides in enumerate(self.shapes):  # as an exporter can trace it
            sizes[level, 0], sizes[level, 1] = sides
        self._ratios = torch.stack([core.get_valid_ratio(one, dtype=first.dtype) for one in self.masks], 1)
        self._common = {
            "spatial_shapes": sizes,
            "spatial_shapes_list": self.shapes,
            "level_start_index": torch.cat((sizes.new_zeros((1,)), sizes.prod(1).cumsum(0)[:-1])),
        }

    def said(self, mask: str, *, ratios: bool = True) -> dict[str, Any]:
        """The arguments; `mask` is what the layers call the mask."""
        return {mask: self.mask, **self._common, **({"valid_ratios": self._ratios} if ratios else {})}

    def points(self) -> Float[Tensor, "b n l 2"]:
        """The middle of every cell, x and y as shares of what each level has of the image."""
        levels = []
        for level, (height, width) in enumerate(self.shapes):
            sides = (
                (torch.arange(side, device=self.mask.device) + 0.5).to(self._ratios.dtype) for side in (height, width)
            )
            down, right = torch.meshgrid(*sides, indexing="ij")
            share = self._ratios[:, None, level]
            places = (right.reshape(-1)[None] / (share[..., 0] * width), down.reshape(-1)[None] / (share[..., 1] * height))
            levels.append(torch.stack(places, -1))
        return torch.cat(levels, 1)[:, :, None] * self._ratios[:, None]


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
    "yolos": Yolos,
}
"""By transformers' own name of the kind of model."""
