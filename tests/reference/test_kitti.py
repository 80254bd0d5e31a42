"""KITTI's 2D AP against loops that follow the benchmark's description word by word."""

from __future__ import annotations

import numpy as np
import pytest

from detdistill.evaluation.kitti import evaluate_kitti
from kitti_by_hand import NAMES, guesses, labels
from thorough import cases

TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "DontCare", "Misc")
SHARES = (0.3, 0.1, 0.05, 0.2, 0.05, 0.15, 0.1, 0.05)
IOU = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
NEIGHBOUR = {"Car": "Van", "Pedestrian": "Person_sitting", "Cyclist": None}
LIMITS = {"easy": (40, 0, 0.15), "moderate": (25, 1, 0.3), "hard": (25, 2, 0.5)}


def area(box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def shared(one, other) -> float:
    return area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))


def iou(one, other) -> float:
    common = shared(one, other)
    return common / (area(one) + area(other) - common) if common > 0 else 0.0


def sort_out(objects, found, name: str, level: str):
    """What concerns a class at a difficulty: [(box, counts)], [(box, score, low)], DontCare regions."""
    height, occlusion, truncation = LIMITS[level]
    kept, regions = [], []
    for kind, truncated, occluded, box in objects:
        if kind == "DontCare":
            regions.append(box)
        elif kind == name:
            too_hard = box[3] - box[1] <= height or occluded > occlusion or truncated > truncation
            kept.append((box, not too_hard))
        elif kind == NEIGHBOUR[name]:
            kept.append((box, False))
    detections = []
    for kind, box, score in found:
        if box[3] - box[1] < height:
            detections.append((box, score, True))
        elif kind == name:
            detections.append((box, score, False))
    return kept, detections, regions


def first_pass(kept, detections, least: float) -> list[float]:
    taken, scores = set(), []
    for box, counts in kept:
        best = None
        for d, (other, score, _) in enumerate(detections):
            if d not in taken and iou(box, other) > least and (best is None or score > detections[best][1]):
                best = d
        if best is not None:
            taken.add(best)
            if counts and not detections[best][2]:
                scores.append(detections[best][1])
    return scores


def second_pass(kept, detections, regions, least: float, threshold: float) -> tuple[int, int]:
    taken: set[int] = set()
    right = 0
    for box, counts in kept:
        best, best_low, best_overlap = None, False, 0.0
        for d, (other, score, low) in enumerate(detections):
            if d in taken or score < threshold or iou(box, other) <= least:
                continue
            if not low and (best is None or best_low or iou(box, other) > best_overlap):
                best, best_low, best_overlap = d, False, iou(box, other)
            elif low and best is None:
                best, best_low = d, True
        if best is not None:
            taken.add(best)
            right += counts and not best_low
    wrong = 0
    for d, (other, score, low) in enumerate(detections):
        if d in taken or low or score < threshold:
            continue
        if not any(shared(other, region) > least * area(other) for region in regions):
            wrong += 1
    return right, wrong


def sampled(scores: list[float], count: int) -> list[float]:
    scores = sorted(scores, reverse=True)
    if count < 41:
        taken = []
        for k in range(41):
            reached = [score for place, score in enumerate(scores, start=1) if 40 * place >= k * count]
            taken += reached[:1]
        return taken
    taken, recall = [], 0.0
    for place, score in enumerate(scores, start=1):
        if place < len(scores) and (place + 1) / count - recall < recall - place / count:
            continue
        taken.append(score)
        recall += 1 / 40.0
    return taken


def slow(images) -> dict[tuple[str, str], dict[int, float] | None]:
    result: dict[tuple[str, str], dict[int, float] | None] = {}
    for name in NAMES:
        for level in LIMITS:
            sorted_out = [sort_out(objects, found, name, level) for objects, found in images]
            count = sum(counts for kept, _, _ in sorted_out for _, counts in kept)
            if count == 0:
                result[name, level] = None
                continue
            scores = [s for kept, detections, _ in sorted_out for s in first_pass(kept, detections, IOU[name])]
            precision = [0.0] * 41
            for place, threshold in enumerate(sampled(scores, count)):
                counted = [second_pass(*one, IOU[name], threshold) for one in sorted_out]
                right, wrong = sum(r for r, _ in counted), sum(w for _, w in counted)
                precision[place] = right / (right + wrong) if right + wrong else 0.0
            best = [max(precision[place:]) for place in range(41)]
            result[name, level] = {40: 100 * sum(best[1:]) / 40, 11: 100 * sum(best[::4]) / 11}
    return result


def random_images(seed: int):
    """Neighbours, DontCare, all difficulties, low boxes, doubles, wrong classes, equal scores."""
    draw = np.random.default_rng(seed)
    images = []
    many = seed % 20 == 0
    for _ in range(40 if many else int(draw.integers(1, 5))):
        objects, found = [], []
        for _ in range(int(draw.integers(0, 8))):
            kind = "Car" if many and draw.random() < 0.7 else str(draw.choice(TYPES, p=SHARES))
            x, y = draw.integers(0, 120, 2)
            w, h = draw.choice([20, 40, 60, 100]), draw.choice([24, 25, 26, 39, 40, 41, 60, 100])
            box = tuple(float(v) for v in (x, y, x + w, y + h))
            objects.append((kind, float(draw.choice([0, 0, 0.2, 0.4, 0.6])), int(draw.choice([0, 0, 1, 2, 3])), box))
            for _ in range(int(draw.integers(0, 4))):
                moved = np.array(box) + draw.integers(0, 2) * np.round(draw.normal(size=4) * 4)
                moved[2:] = np.maximum(moved[2:], moved[:2] + 1)
                named = kind if kind in NAMES and draw.random() < 0.8 else str(draw.choice(NAMES))
                found.append((named, tuple(map(float, moved)), int(draw.integers(1, 9)) / 8))
        order = draw.permutation(len(found))
        images.append((objects, [found[i] for i in order]))
    return images


def test_random_cases_equal_the_slow_reference():
    between = large = 0
    for seed in range(count := cases(30, 200)):
        images = random_images(seed)
        truths = {10 * i: labels(*objects) for i, (objects, _) in enumerate(images)}
        detections = [guesses(10 * i, *found) for i, (_, found) in enumerate(images)]
        by_points = {
            points: evaluate_kitti(truths, detections, class_names=NAMES, points=points) for points in (40, 11)
        }
        for (name, level), want in slow(images).items():
            for points, metrics in by_points.items():
                have = metrics.ap[name][level]
                assert (have is None) == (want is None), (seed, name, level)
                assert want is None or have == pytest.approx(want[points], abs=1e-9), (seed, name, level, points)
            between += want is not None and 1 < want[40] < 99
            large += want is not None and by_points[40].objects[name][level] >= 41
    # It would mean little if most figures were at the ends, or if no case reached the benchmark's own sampling.
    assert between > 1.5 * count
    assert large > count / 40
