"""Deformable DETR taken apart: maps of several strides, and queries that look at some places of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from detdistill.detectors.hf.architecture import Architecture, Labels, Said
from detdistill.types import Pyramid


def shrunk(inside: Tensor, grid: Sequence[int]) -> Tensor:
    """Where the image is, on the cells of a map: as the models see it, by the nearest pixel."""
    return torch.nn.functional.interpolate(inside[None].float(), size=tuple(grid)).to(torch.bool)[0]


class DeformableDetr(Architecture):
    """Deformable DETR: an encoder over maps of several strides; padding is masked out."""

    own_frame = True

    @property
    def one_size(self) -> str:  # type: ignore[override]
        """See `Architecture.one_size`."""
        return "whose first stage counts the cells of one size" if self.config.two_stage else ""

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
            for one, source in zip(torch.split(tokens, cells, dim=1), sources, strict=True)
        ]
        return Pyramid(tuple(levels), self.strides)

    def says(self, model: Any, maps: Pyramid, inside: Tensor, labels: Labels | None) -> Said:
        """See `Architecture.says`."""
        core, config = model.model, self.config
        grid, tokens = _Grid(core, maps.levels, inside), _flat(maps.levels)
        if config.two_stage:
            target, asked, points = self._proposed(core, tokens, grid)
        else:
            asked, target = torch.split(core.query_position_embeddings.weight, config.d_model, dim=1)
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
        self.masks = [shrunk(inside, shape) for shape in self.shapes]
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
            places = (
                right.reshape(-1)[None] / (share[..., 0] * width),
                down.reshape(-1)[None] / (share[..., 1] * height),
            )
            levels.append(torch.stack(places, -1))
        return torch.cat(levels, 1)[:, :, None] * self._ratios[:, None]
