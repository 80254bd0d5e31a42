"""One of transformers' detectors as a `Detector`: its encoder's maps are the pyramid, its queries the heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_convert, clip_boxes_to_image

from detdistill.detectors.base import (
    BACKGROUND_ROW,
    LOSS_NEEDS,
    UNUSED_ROW,
    ClassLayout,
    Detector,
    DetectorSpec,
    Limits,
    PyramidLayout,
    QueryLayout,
)
from detdistill.detectors.hf.architecture import Labels, Said
from detdistill.detectors.hf.architectures import ARCHITECTURES
from detdistill.detectors.hf.objective import Objects
from detdistill.detectors.preprocess import Normaliser, beyond, outside_image
from detdistill.detectors.rcnn_losses import Stream, mixed_seed
from detdistill.detectors.settings import DetectorSettings
from detdistill.detectors.torchvision_parts import clipped
from detdistill.types import (
    Batch,
    Candidates,
    ClassKind,
    ClassLogits,
    Detections,
    Need,
    Observation,
    Pyramid,
    Queries,
    TaskLoss,
    sent,
)

_SEEN = LOSS_NEEDS | {Need.CLASS_LOGITS, Need.QUERIES}
_CLASS_PARTS = frozenset({"class_embed", "class_labels_classifier", "enc_score_head", "denoising_class_embed"})


@final
class HFDetector(Detector):
    """A detector of transformers'.

    What it draws at random in training (noisy labels, dropout) comes from a generator that the batch's seeds seed;
    the global one plays no part. Boxes do not suppress each other: every query learns to say an object alone.

    Args:
        model: transformers' model, taken over.
        class_names: in label order.
        settings: what it was built from.
        slots: the model's own class index of every label; None: the label.
    """

    weighs_objects = True
    compiled_graph = True

    def __init__(
        self, model: Any, class_names: Sequence[str], *, settings: DetectorSettings, slots: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.parts = ARCHITECTURES[model.config.model_type](model.config)
        self.slots = tuple(range(len(class_names))) if slots is None else tuple(slots)
        names, kind, strides = tuple(class_names), self.parts.kind, self.parts.strides
        self.spec = DetectorSpec(
            name=settings.name,
            class_names=names,
            pyramid=PyramidLayout(strides, self.parts.channels),
            class_logits=ClassLayout(strides, kind, 1, names) if self.parts.scores_cells else None,
            queries=QueryLayout(self.parts.queries, kind, names),
        )
        self._pixels = Normaliser.of(settings)
        self._least, self._most = settings.score_threshold, settings.detections_per_image

    def extract(self, batch: Batch) -> Pyramid:
        """See `Detector.extract`; images are padded further with zeros where the model needs other sides."""
        with self._drawing(batch, Stream.MAPS):
            maps = self.parts.maps(self.model, self._framed(self._pixels(batch), batch), self._inside(batch))
        return _cut(maps, batch)

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        """See `Detector.observe`: whatever is asked for, the queries run once."""
        learns = Need.FOUND_LOSS in needs and batch.found is not None
        if not (needs & _SEEN or learns):
            return Observation(pyramid)
        # Objects that a teacher found are no labels that could be made noisy.
        certain = all(one.scores is None for one in batch.targets)
        labels = self._labels(batch) if needs & LOSS_NEEDS and certain else None
        said = self._said(pyramid, batch, labels)
        logits = queries = loss = found = None
        if Need.CLASS_LOGITS in needs and said.cells is not None:
            logits = ClassLogits(self._cells(said.cells, pyramid, batch), pyramid.strides, ClassKind.SIGMOID)
        if Need.QUERIES in needs:
            queries = self._queries(said, batch)
        if needs & LOSS_NEEDS:
            objects = labels or self._objects(batch)
            loss = self._task_loss(said, objects, per_image=Need.IMAGE_LOSSES in needs)
        if learns:
            found = self._task_loss(said, self._objects(batch.against_found), per_image=True)
        return Observation(pyramid, class_logits=logits, task_loss=loss, queries=queries, found_loss=found)

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """See `Detector.detect`: of a query with sigmoid scores every class counts, of one with shares the largest."""
        queries = self._queries(self._said(self.extract(batch), batch, None), batch)
        shares, boxes = queries.shares.float(), queries.boxes
        classes = shares.shape[2]
        scores, found = self._scores(shares).flatten(1), []
        for image, size in enumerate(batch.sizes):
            best = scores[image].sort(descending=True, stable=True)
            kept = best.indices[: self._most][best.values[: self._most] > self._least]
            query, label = kept // classes, kept % classes
            shown = clip_boxes_to_image(boxes[image][query], size)
            found.append(Detections(shown, scores[image][kept], label, shares[image][query]))
        return tuple(found)

    def _scores(self, shares: Float[Tensor, "b q k"]) -> Float[Tensor, "b q k"]:
        if self.parts.kind is not ClassKind.SOFTMAX:
            return shares
        return torch.where(shares == shares.amax(dim=2, keepdim=True), shares, 0.0)

    def candidates(self, batch: Batch, sizes: Int64[Tensor, "b 2"]) -> Candidates:
        """See `Detector.candidates`: every query's box."""
        images = batch.images
        inside = self._framed((~beyond(sizes, *images.shape[-2:])[:, 0]).to(images.dtype), batch)
        pixels = self._framed(self._pixels(batch), batch)
        said = self.parts.says(self.model, self.parts.maps(self.model, pixels, inside), inside, None)
        if self.parts.own_frame:
            frames = sizes.flip(1).repeat(1, 2)[:, None]
        else:
            frames = sizes.new_tensor([*reversed(self._frame(batch))] * 2)
        boxes: Tensor = box_convert(said.boxes.float(), "cxcywh", "xyxy") * frames
        shares = Queries(self._class_logits(said.logits), boxes, self.parts.kind).shares.float()
        return Candidates(clipped(boxes, sizes), self._scores(shares))

    @property
    def one_size(self) -> str:  # type: ignore[override]
        """See `Detector.one_size`."""
        return self.parts.one_size

    def limits(self) -> Limits:
        """See `Detector.limits`: no box suppresses another."""
        return Limits(self._least, None, self._most)

    def in_backbone(self, tensor: str) -> bool:
        """See `Detector.in_backbone`."""
        return "backbone" in tensor.split(".")

    def class_rows(self) -> Mapping[str, tuple[int, ...]]:
        """See `Detector.class_rows`: every layer that scores classes, and the embedding of noisy labels."""
        total = int(self.model.config.num_labels)
        labels = {slot: label for label, slot in enumerate(self.slots)}
        rows = tuple(labels.get(slot, UNUSED_ROW) for slot in range(total))
        known = {total: rows, total + 1: (*rows, BACKGROUND_ROW)}
        return {
            name: known[tensor.shape[0]]
            for name, tensor in self.state_dict().items()
            if _CLASS_PARTS & set(name.split(".")) and tensor.shape[0] in known
        }

    def _frame(self, batch: Batch) -> tuple[int, int]:
        """Height and width in pixels of the images as the model sees them."""
        height, width = (-(-side // self.parts.multiple) * self.parts.multiple for side in batch.images.shape[-2:])
        return height, width

    def _framed(self, values: Float[Tensor, "b ... h w"], batch: Batch) -> Float[Tensor, "b ... h2 w2"]:
        """With zeros up to the sides that the model needs."""
        height, width = self._frame(batch)
        return functional.pad(values, (0, width - values.shape[-1], 0, height - values.shape[-2]))

    def _inside(self, batch: Batch) -> Float[Tensor, "b h w"]:
        outside, images = outside_image(batch), batch.images
        inside = images.new_ones(len(batch), *images.shape[-2:]) if outside is None else (~outside[:, 0]).float()
        return self._framed(inside, batch)

    def _frames(self, batch: Batch) -> Float[Tensor, "b 1 4"]:
        """Width, height, width and height in pixels of what the model's boxes are shares of."""
        sizes = batch.sizes if self.parts.own_frame else (self._frame(batch),) * len(batch)
        sides = torch.tensor([[[width, height, width, height]] for height, width in sizes], dtype=torch.float32)
        return sent(sides, batch.images.device)

    def _said(self, pyramid: Pyramid, batch: Batch, labels: Labels | None) -> Said:
        whole = _uncut(pyramid, self._frame(batch))
        with self._drawing(batch, Stream.QUERIES):
            return self.parts.says(self.model, whole, self._inside(batch), labels)

    @contextmanager
    def _drawing(self, batch: Batch, stream: Stream) -> Iterator[None]:
        """Within, torch's generators are seeded by the batch's seeds; afterwards they are as before."""
        if not (self.training and self.parts.draws):
            yield
            return
        seed = reduce(lambda mixed, one: mixed_seed(mixed ^ one, stream), batch.seeds, 0)
        device = batch.images.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

    def _labels(self, batch: Batch) -> Labels:
        """What each image teaches, as the models' losses read it."""
        slots = sent(torch.tensor(self.slots), batch.images.device)
        found = []
        for target, frame in zip(batch.targets, self._frames(batch), strict=True):
            taught = target.taught()
            boxes = box_convert(taught.boxes.float() / frame, "xyxy", "cxcywh")
            found.append({"class_labels": slots[taught.labels], "boxes": boxes})
        return found

    def _objects(self, batch: Batch) -> list[Objects]:
        """What each image teaches by weights and distributions; an object of no weight is none."""
        slots, classes = sent(torch.tensor(self.slots), batch.images.device), int(self.model.config.num_labels)
        found = []
        for target, frame in zip(batch.targets, self._frames(batch), strict=True):
            taught = target.taught()
            weights = torch.ones_like(taught.boxes[:, 0]) if taught.scores is None else taught.scores
            said = taught.probabilities
            said = functional.one_hot(taught.labels, len(slots)) if said is None else said
            shares = weights.new_zeros(len(weights), classes).index_copy(1, slots, said.to(weights))
            boxes = box_convert(taught.boxes.float() / frame, "xyxy", "cxcywh")
            doubtful = boxes[:0] if taught.doubtful is None else taught.doubtful.float() / frame
            some = weights > 0
            found.append(Objects(boxes[some], shares[some], weights[some], doubtful))
        return found

    def _queries(self, said: Said, batch: Batch) -> Queries:
        return Queries(self._class_logits(said.logits), self._in_pixels(said.boxes, batch), self.parts.kind)

    def _in_pixels(self, boxes: Float[Tensor, "b q 4"], batch: Batch) -> Float[Tensor, "b q 4"]:
        found: Tensor = box_convert(boxes.float(), "cxcywh", "xyxy") * self._frames(batch)
        return found

    def _class_logits(self, logits: Float[Tensor, "b q s"]) -> Float[Tensor, "b q _t"]:
        """The logits of our classes in label order; slots that are none of ours are no object where there is such."""
        slots = list(self.slots)
        if self.parts.kind is not ClassKind.SOFTMAX:
            chosen: Tensor = logits if slots == [*range(logits.shape[-1])] else logits[..., slots]
            return chosen
        others = [slot for slot in range(logits.shape[-1]) if slot not in self.slots]
        none = logits[..., others].logsumexp(dim=-1, keepdim=True)
        return torch.cat([logits[..., slots], none], dim=-1)

    def _cells(self, cells: Float[Tensor, "b n s"], pyramid: Pyramid, batch: Batch) -> tuple[Tensor, ...]:
        """The scores of every cell of the pyramid's levels; coarser levels of the decoder's own are left out."""
        grids = [level.shape[-2:] for level in _uncut(pyramid, self._frame(batch)).levels]
        levels, first = [], 0
        for (rows, columns), level in zip(grids, pyramid.levels, strict=True):
            part = self._class_logits(cells[:, first : first + rows * columns]).transpose(1, 2)
            maps = part.reshape(len(part), 1, -1, rows, columns)
            levels.append(maps[..., : level.shape[-2], : level.shape[-1]])
            first += rows * columns
        return tuple(levels)

    def _task_loss(self, said: Said, labels: Labels | list[Objects], *, per_image: bool) -> TaskLoss:
        """The model's own loss, in float32; each image alone from the same outputs, matched anew."""
        with torch.autocast(said.logits.device.type, enabled=False):
            total = self._loss(said.loss, labels)[0]
            if not per_image:
                return TaskLoss(total)
            alone = [self._loss(said.of_image(at), labels[at : at + 1]) for at in range(len(labels))]
        whole, classes, boxes = (torch.stack([row[at] for row in alone]) for at in range(3))
        none = classes.new_zeros(len(labels), len(self.parts.strides))
        rest = (whole - classes - boxes).clamp(min=0.0)
        return TaskLoss(total, self.parts.strides, none, none, classes, boxes, other={"auxiliary": rest})

    def _loss(
        self, arguments: Mapping[str, Any], labels: Sequence[Mapping[str, Tensor] | Objects]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The whole loss, and the last layer's class and box losses in it."""
        given = {name: value.float() if _is_floating(value) else value for name, value in arguments.items()}
        logits, boxes = given.pop("logits"), given.pop("pred_boxes")
        if not bool(torch.isfinite(boxes).all() & torch.isfinite(logits).all()):
            spoilt = logits.sum() + boxes.sum() + torch.nan  # no match can be made of it; the step is left out
            return spoilt, spoilt, spoilt
        objects = [one for one in labels if isinstance(one, Objects)]
        if objects:
            layers = self.parts.layers({**given, "logits": logits, "pred_boxes": boxes})
            return self.parts.objective()(layers, objects)
        total, parts, _ = self.model.loss_function(logits, labels, logits.device, boxes, self.model.config, **given)
        weights = self.parts.weights()
        classes = sum(weights[name] * parts[name] for name in ("loss_vfl", "loss_ce") if name in weights)
        places = sum(weights[name] * parts[name] for name in ("loss_bbox", "loss_giou"))
        return total, classes, places


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _cut(maps: Pyramid, batch: Batch) -> Pyramid:
    """The maps without the cells that only padding beyond the batch's grid has."""
    cells = [tuple(-(-side // stride) for side in batch.images.shape[-2:]) for stride in maps.strides]
    if all(level.shape[-2:] == grid for level, grid in zip(maps.levels, cells, strict=True)):
        return maps
    levels = (level[..., :rows, :columns] for level, (rows, columns) in zip(maps.levels, cells, strict=True))
    return replace(maps, levels=tuple(levels))


def _uncut(maps: Pyramid, frame: tuple[int, int]) -> Pyramid:
    """The maps on the grids of the whole frame, zero where they were cut."""
    levels = []
    for level, stride in zip(maps.levels, maps.strides, strict=True):
        rows, columns = (-(-side // stride) for side in frame)
        levels.append(functional.pad(level, (0, columns - level.shape[-1], 0, rows - level.shape[-2])))
    return replace(maps, levels=tuple(levels))
