"""GFL's assignment and losses against slow, obvious versions written from their definitions: value and gradient."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detdistill.detectors.catalogue import build_detector
from detdistill.detectors.families.gfl import GFLDetector
from detdistill.distillation.pair import inside_cells
from detdistill.gfl.assign import (
    ANCHOR_SCALE,
    BACKGROUND,
    CANDIDATES,
    _candidates,
    box_overlaps,
    make_cells,
    match_by_atss,
    valuable_region,
)
from detdistill.gfl.losses import distribution_focal_costs, expected_distances, overlap_costs, quality_focal_cells
from detdistill.types import Need, Pyramid
from scenes_in_memory import scene_batch, tiny_settings, tiny_student

GRIDS, STRIDES = ((12, 16), (6, 8), (3, 4)), (8, 16, 32)
LEVELS = tuple(zip(GRIDS, STRIDES, strict=True))
CELLS = make_cells(GRIDS, STRIDES, device=torch.device("cpu"))
Box = tuple[float, float, float, float]


def area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def slow_overlaps(first: Box, second: Box) -> tuple[float, float]:
    """IoU and GIoU of one pair; works on tensors of no axes too, for gradients."""
    width = max(min(first[2], second[2]) - max(first[0], second[0]), 0.0)
    height = max(min(first[3], second[3]) - max(first[1], second[1]), 0.0)
    union = area(first) + area(second) - width * height
    hull = (max(first[2], second[2]) - min(first[0], second[0])) * (max(first[3], second[3]) - min(first[1], second[1]))
    iou = width * height / union
    return iou, iou - (hull - union) / hull


def slow_cells(grids=GRIDS, strides=STRIDES) -> list[list[tuple[float, float, int]]]:
    return [
        [(float(x * stride), float(y * stride), stride) for y in range(rows) for x in range(columns)]
        for (rows, columns), stride in zip(grids, strides, strict=True)
    ]


def anchor(cell: tuple[float, float, int], scale: float) -> Box:
    half = cell[2] * scale / 2
    return cell[0] - half, cell[1] - half, cell[0] + half, cell[1] + half


def slow_atss(boxes: list[Box], size: tuple[int, int], scale: float) -> tuple[list[int], list[float]]:
    levels = slow_cells()
    flat = [cell for level in levels for cell in level]
    best, matched, thresholds = [-1.0] * len(flat), [BACKGROUND] * len(flat), []
    for number, box in enumerate(boxes):
        centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        candidates, first = [], 0
        for level in levels:
            near = [
                ((x - centre[0]) ** 2 + (y - centre[1]) ** 2, first + index)
                for index, (x, y, _) in enumerate(level)
                if x < size[1] and y < size[0]
            ]
            candidates += [index for _, index in sorted(near)[:9]]
            first += len(level)
        overlaps = [slow_overlaps(anchor(flat[index], scale), box)[0] for index in candidates]
        mean = sum(overlaps) / len(overlaps)
        spread = math.sqrt(sum((o - mean) ** 2 for o in overlaps) / (len(overlaps) - 1)) if len(overlaps) > 1 else 0.0
        threshold = min(mean + spread, max(overlaps))
        thresholds.append(threshold)
        for index, overlap in zip(candidates, overlaps, strict=True):
            x, y, _ = flat[index]
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            if inside and overlap >= threshold and overlap > best[index]:
                best[index], matched[index] = overlap, number
    return matched, thresholds


def slow_region(
    boxes: list[Box], matched: list[int], thresholds: list[float], *, size: tuple[int, int], scale: float
) -> list[float]:
    region = []
    for cell, own in zip([cell for level in slow_cells() for cell in level], matched, strict=True):
        near = 0.0
        for box, threshold in zip(boxes, thresholds, strict=True):
            square = anchor(cell, scale)
            hull = (max(square[2], box[2]) - min(square[0], box[0]), max(square[3], box[3]) - min(square[1], box[1]))
            apart = (cell[0] - (box[0] + box[2]) / 2, cell[1] - (box[1] + box[3]) / 2)
            iou = slow_overlaps(square, box)[0]
            diou = iou - (apart[0] ** 2 + apart[1] ** 2) / (hull[0] ** 2 + hull[1] ** 2)
            if 0.25 * threshold <= diou < threshold:
                near = max(near, iou)
        free = own == BACKGROUND and cell[0] < size[1] and cell[1] < size[0]
        region.append(near if free else 0.0)
    return region


def drawn_boxes(seed: int, count: int, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([size[1] * 0.7, size[0] * 0.7])
    sides = 4 + torch.rand(count, 2, generator=generator) * torch.tensor([size[1] * 0.6, size[0] * 0.6])
    lower = torch.minimum(corners + sides, torch.tensor([float(size[1]), float(size[0])]))
    return torch.cat((corners, lower), dim=1)


SCENES = [(0, 1, (96, 128)), (1, 4, (96, 128)), (2, 7, (70, 101)), (3, 5, (64, 33)), (4, 2, (9, 9)), (5, 3, (40, 20))]


@pytest.mark.parametrize("scale", [2.0, ANCHOR_SCALE])
@pytest.mark.parametrize(("seed", "count", "size"), SCENES)
def test_the_assignment_equals_its_slow_reference(seed: int, count: int, size: tuple[int, int], scale: float) -> None:
    boxes = drawn_boxes(seed, count, size)
    match = match_by_atss(boxes, CELLS, size=size, scale=scale)
    plain: list[Box] = [tuple(box) for box in boxes.double().tolist()]  # type: ignore[misc]
    matched, thresholds = slow_atss(plain, size, scale)
    assert match.matched.tolist() == matched
    assert match.thresholds.tolist() == pytest.approx(thresholds, abs=1e-5)
    region = valuable_region(boxes, CELLS, match, size=size, scale=scale)
    slow = slow_region(plain, matched, thresholds, size=size, scale=scale)
    assert region.tolist() == pytest.approx(slow, abs=1e-5)
    if size != (9, 9):
        assert max(matched) >= 0
        assert region.any()


def test_every_object_that_holds_a_point_teaches_a_cell_on_three_levels() -> None:
    """In the source mean + deviation can lie above an object's best overlap, as it does for some of these."""
    boxes = drawn_boxes(11, 200, (96, 128))
    for box in boxes:
        if ((box[2:] - box[:2]) > STRIDES[0]).all():
            assert (match_by_atss(box[None], CELLS, size=(96, 128)).matched >= 0).any()


def test_equally_near_cells_are_taken_in_their_order() -> None:
    """A centre between four cells has 4 nearest and 8 second nearest ones: 5 of the 8 are candidates, the first."""
    cells = make_cells(((12, 16),), (8,), device=torch.device("cpu"))
    chosen, real = _candidates(torch.tensor([[32.0, 40.0, 56.0, 48.0]]), cells, cells.inside((96, 128)))
    # Columns 5 and 6, rows 5 and 6 are the nearest (offsets ±4, ±4), then offsets (±4, ±12) and (±12, ±4).
    nearest = [5 * 16 + 5, 5 * 16 + 6, 6 * 16 + 5, 6 * 16 + 6]
    next_ones = [4 * 16 + 5, 4 * 16 + 6, 5 * 16 + 4, 5 * 16 + 7, 6 * 16 + 4]
    assert chosen.tolist() == [nearest + next_ones]
    assert real.all()
    assert CANDIDATES == 9


def test_an_images_assignment_does_not_see_its_padding() -> None:
    boxes = drawn_boxes(7, 4, (40, 48))
    wide = match_by_atss(boxes, CELLS, size=(40, 48), scale=4.0)
    tight_grids = ((5, 6), (3, 3), (2, 2))
    tight = match_by_atss(boxes, make_cells(tight_grids, STRIDES, device=torch.device("cpu")), size=(40, 48), scale=4.0)
    torch.testing.assert_close(wide.thresholds, tight.thresholds)
    cut, first = [], 0
    for (rows, columns), (high, broad) in zip(GRIDS, tight_grids, strict=True):
        level = wide.matched[first : first + rows * columns].reshape(rows, columns)
        assert (level[high:] == BACKGROUND).all()
        assert (level[:, broad:] == BACKGROUND).all()
        cut += level[:high, :broad].flatten().tolist()
        first += rows * columns
    assert cut == tight.matched.tolist()
    assert max(cut) >= 0


def test_overlaps_equal_their_slow_reference() -> None:
    first, second = drawn_boxes(1, 30, (96, 128)), drawn_boxes(2, 30, (96, 128))
    first.requires_grad_()
    iou, generalised = box_overlaps(first, second)
    slow = [slow_overlaps(tuple(a), tuple(b)) for a, b in zip(first, second, strict=True)]  # type: ignore[arg-type]
    for fast_one, slow_one in ((iou, [one[0] for one in slow]), (generalised, [one[1] for one in slow])):
        together = torch.stack([torch.as_tensor(one) for one in slow_one])
        torch.testing.assert_close(fast_one, together)
        gradients = [torch.autograd.grad(x.sum(), first, retain_graph=True)[0] for x in (fast_one, together)]
        torch.testing.assert_close(*gradients)
    assert (iou == 0).any()
    assert (iou > 0).any()


def slow_quality(logit: Tensor, wanted: float) -> Tensor:
    score = 1 / (1 + (-logit).exp())
    entropy = -(wanted * score.log() + (1 - wanted) * (1 - score).log())
    return (wanted - score).abs() ** 2 * entropy


def slow_mean(logits: Tensor) -> Tensor:
    powers = [logit.exp() for logit in logits]
    return sum((j * power for j, power in enumerate(powers)), torch.zeros(())) / sum(powers, torch.zeros(()))


def slow_shape(logits: Tensor, distance: float) -> Tensor:
    """Cross-entropy to the two bins beside the distance, of one edge."""
    distance = min(max(distance, 0.0), len(logits) - 1 - 0.1)
    left = math.floor(distance)
    shares = [logit.exp() for logit in logits]
    whole = sum(shares, torch.zeros(()))
    return -(left + 1 - distance) * (shares[left] / whole).log() - (distance - left) * (shares[left + 1] / whole).log()


def test_the_quality_focal_loss_equals_its_slow_reference() -> None:
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    own = (torch.tensor([0, 0, 1]), torch.tensor([1, 3, 0]), torch.tensor([2, 0, 1]))
    quality = torch.tensor([0.0, 0.4, 0.9])
    cells = quality_focal_cells(logits, quality, own=own)
    wanted = {(int(i), int(c), int(k)): float(q) for i, c, k, q in zip(*own, quality, strict=True)}
    slow = torch.stack(
        [
            sum((slow_quality(logits[i, c, k], wanted.get((i, c, k), 0.0)) for k in range(3)), torch.zeros(()))
            for i in range(2)
            for c in range(5)
        ]
    ).reshape(2, 5)
    torch.testing.assert_close(cells, slow)
    torch.testing.assert_close(
        *[torch.autograd.grad((torch.arange(10.0).reshape(2, 5) * x).sum(), logits)[0] for x in (cells, slow)]
    )


def test_the_distribution_focal_loss_equals_its_slow_reference() -> None:
    logits = torch.randn(4, 4, 17, generator=torch.Generator().manual_seed(0)).requires_grad_()
    distances = torch.rand(4, 4, generator=torch.Generator().manual_seed(1)) * 15
    distances[0] = torch.tensor([0.0, 16.0, 40.0, 7.0])
    costs = distribution_focal_costs(logits, distances)
    slow = torch.stack(
        [
            sum((slow_shape(logits[p, e], float(distances[p, e])) for e in range(4)), torch.zeros(())) / 4 * 0.25
            for p in range(4)
        ]
    )
    torch.testing.assert_close(costs, slow)
    torch.testing.assert_close(
        *[torch.autograd.grad((torch.arange(1.0, 5) * x).sum(), logits)[0] for x in (costs, slow)]
    )
    means = expected_distances(logits)
    torch.testing.assert_close(means, torch.stack([slow_mean(edge) for edge in logits.reshape(-1, 17)]).reshape(4, 4))


def slow_total(detector: GFLDetector, classes: list[Tensor], boxes: list[Tensor], batch) -> Tensor:
    """The loss of a whole batch by its definition, cell by cell."""
    quality, overlap, shape, mass = (torch.zeros(()) for _ in range(4))
    positives = 0
    for image, (target, size) in enumerate(zip(batch.targets, batch.sizes, strict=True)):
        plain: list[Box] = [tuple(box) for box in target.boxes.tolist()]  # type: ignore[misc]
        matched, _ = slow_atss(plain, size, detector.settings.anchor_scale)
        positives += max(sum(own >= 0 for own in matched), 1)
        place = 0
        for level, cells in enumerate(slow_cells()):
            columns = GRIDS[level][1]
            for index, (x, y, stride) in enumerate(cells):
                row, column = divmod(index, columns)
                logits = classes[level][image, :, row, column]
                wanted = [0.0] * len(logits)
                own, place = matched[place], place + 1
                if own >= 0:
                    edges = boxes[level][image, :, :, row, column]
                    box = plain[own]
                    reach = [slow_mean(edge) * stride for edge in edges]
                    found = (x - reach[0], y - reach[1], x + reach[2], y + reach[3])
                    iou, generalised = slow_overlaps(found, box)  # type: ignore[arg-type]
                    weight = float(logits.detach().sigmoid().max())
                    wanted[int(target.labels[own])] = float(iou.detach())
                    overlap = overlap + weight * 2 * (1 - generalised)
                    true = ((x - box[0]), (y - box[1]), (box[2] - x), (box[3] - y))
                    for edge, distance in zip(edges, true, strict=True):
                        shape = shape + weight * 0.25 * slow_shape(edge, distance / stride) / 4
                    mass = mass + weight
                if x >= size[1] or y >= size[0]:
                    continue
                for logit, one in zip(logits, wanted, strict=True):
                    quality = quality + slow_quality(logit, one)
    return quality / positives + (overlap + shape) / mass


def test_the_detectors_loss_equals_its_slow_reference() -> None:
    detector = tiny_student("gfl").eval()
    assert isinstance(detector, GFLDetector)
    batch = scene_batch()
    generator = torch.Generator().manual_seed(3)
    pyramid = detector.extract(batch)
    shapes = [level.shape[-2:] for level in pyramid.levels]
    assert tuple(map(tuple, shapes)) == GRIDS
    classes = [torch.randn(3, 3, *shape, generator=generator).requires_grad_() for shape in shapes]
    boxes = [torch.randn(3, 4, 17, *shape, generator=generator).requires_grad_() for shape in shapes]
    said = [tuple(level.unsqueeze(1) for level in levels) for levels in (classes, boxes)]
    loss = detector.dense_loss(*said, pyramid, batch, per_image=False)
    slow = slow_total(detector, classes, boxes, batch)
    torch.testing.assert_close(loss.total, slow)
    fast_ones, slow_ones = (torch.autograd.grad(x, [*classes, *boxes]) for x in (loss.total, slow))
    for fast_one, slow_one in zip(fast_ones, slow_ones, strict=True):
        torch.testing.assert_close(fast_one, slow_one, rtol=1e-4, atol=1e-6)
        assert fast_one.any()
    costs = overlap_costs(torch.tensor([1.0, 0.0, -1.0]))
    assert costs.tolist() == [0.0, 2.0, 4.0]
    empty = replace(batch, targets=(batch.targets[2],) * 3)
    nothing = detector.dense_loss(*said, pyramid, empty, per_image=False).total
    inside = [inside_cells(batch.sizes, stride, grid=grid, device=CELLS.points.device) for grid, stride in LEVELS]
    none = sum((slow_quality(level, 0.0) * mask).sum() for level, mask in zip(classes, inside, strict=True))
    torch.testing.assert_close(nothing, none / 3)


def test_images_without_an_object_count_as_one_positive_each() -> None:
    """The expected value is that of the authors' own code: 9 positives in one image, three images without any."""
    detector = build_detector(tiny_settings("gfl", anchor_scale=8.0, strides=(8, 16, 32, 64)), ("a", "b", "c"), seed=0)
    scenes = scene_batch((((40, 40, 90, 100),), (), (), ()), sizes=((96, 128),) * 4)
    seen = detector(scenes, frozenset({Need.TASK_LOSS}))
    assert seen.task_loss is not None
    assert seen.task_loss.total.item() == pytest.approx(2.26220, abs=5e-6)


def test_padding_holds_no_negatives() -> None:
    """The class loss of an image is the same on a wider grid, whatever the padding's cells say."""
    detector = tiny_student("gfl").eval()
    assert isinstance(detector, GFLDetector)
    box = ((10, 8, 40, 50),)
    losses = []
    for grid in ((64, 64), (96, 128)):
        scene = scene_batch((box,), sizes=((64, 64),), grid=grid)
        shapes = [(grid[0] // stride, grid[1] // stride) for stride in STRIDES]
        pyramid = Pyramid(tuple(torch.zeros(1, 1, *shape) for shape in shapes), STRIDES)
        classes = [torch.full((1, 1, 3, *shape), 4.0) for shape in shapes]
        for level, stride in zip(classes, STRIDES, strict=True):
            level[..., : 64 // stride, : 64 // stride] = -1.0
        boxes = [torch.zeros(1, 1, 4, 17, *shape) for shape in shapes]
        losses.append(detector.dense_loss(tuple(classes), tuple(boxes), pyramid, scene, per_image=True))
    torch.testing.assert_close(losses[0].total, losses[1].total)
    torch.testing.assert_close(losses[0].classification, losses[1].classification)
