"""How often 95 % intervals of a gain hold the true one: `python benchmarks/coverage_study.py --json FILE`.

Studies are made up from a model of detectors whose truth is known. An image has a difficulty, objects of three sizes
and two classes with difficulties of their own; a detector finds each object with a box that is the better, and a score
that is the higher, the easier image and object are and the more skilled the detector is, and finds things that are
not there. Skill differs by seed, in a part that twins share and a part that they do not, by image in a way that is the
detector's own (seed × image), and by image in a way that all distilled students share. The true difference is that of
COCO's AP over very many images and seeds. Studies are also read with fewer of their seeds, and by other rules:

- components: detdistill's own, variance components with Student's t (`difference_of`);
- hierarchical: seeds drawn, then images, percentiles;
- images: images drawn, seeds as they are, percentiles;
- seeds: Student's t over the seeds alone, as if the images were all there are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detdistill.bench.machine import machine
from detdistill.evaluation.intervals import figures_of
from detdistill.evaluation.matches import AREAS, IOUS, Matches
from detdistill.evaluation.resample import average_precisions
from detdistill.files import read_json, write_json
from detdistill.proof.differences import difference_of
from detdistill.proof.quantile import t_quantile

Ends = tuple[float, float]
SEEDS = (2, 3, 5)
TRUTH_IMAGES, TRUTH_SEEDS = 5_000, 200


@dataclass(frozen=True)
class World:
    """What detectors, seeds and images are like, in units of an object's difficulty.

    Attributes:
        gain: skill that distillation adds; None where twins are two students alone of different seeds.
        shared: standard deviation of skill that twins of a seed share.
        own: of skill that each student has of its own.
        image: of images' difficulty.
        moved: of what distillation changes image by image, whatever the seed.
        both: of what one student does image by image.
    """

    gain: float | None = 0.0
    shared: float = 0.1
    own: float = 0.05
    image: float = 0.6
    moved: float = 0.2
    both: float = 0.3


@dataclass(frozen=True)
class Images:
    """A draw of images: how hard each is, what distillation changes there, and the objects in it.

    Attributes:
        hard: of each image; (N,).
        moved: likewise.
        owners: image of each object; (m,).
        labels: class of each; (m,).
        areas: small, medium or large as 1, 2, 3; (m,).
        objects_hard: (m,).
    """

    hard: NDArray[np.float64]
    moved: NDArray[np.float64]
    owners: NDArray[np.int64]
    labels: NDArray[np.int64]
    areas: NDArray[np.int64]
    objects_hard: NDArray[np.float64]


def images_of(world: World, count: int, random: np.random.Generator) -> Images:
    """So many images of the world."""
    numbers = random.poisson(2.5, count)
    total = int(numbers.sum())
    return Images(
        random.normal(0, world.image, count),
        random.normal(0, world.moved, count),
        np.repeat(np.arange(count), numbers),
        (random.random(total) < 0.3).astype(np.int64),
        random.choice([1, 2, 3], total, p=[0.4, 0.35, 0.25]),
        random.normal(0, 1, total),
    )


def found_by(skill: float, distilled: bool, world: World, images: Images, random: np.random.Generator) -> Matches:
    """What a student of such skill finds in the images, matched already."""
    count, total = len(images.hard), len(images.owners)
    ease = skill - images.hard + distilled * images.moved + random.normal(0, world.both, count)
    size = np.array([0.0, -0.5, 0.0, 0.4])[images.areas]
    clear = ease[images.owners] - images.objects_hard + size + random.normal(0, 0.4, total)
    overlap = 1 / (1 + np.exp(-0.9 - 1.1 * clear - random.normal(0, 0.4, total)))
    false = random.poisson(3.0 * np.exp(-0.4 * ease))
    elsewhere = int(false.sum())
    scores = np.concatenate([clear + random.normal(0, 0.5, total), random.normal(-1.2, 0.9, elsewhere)])
    owners = np.concatenate([images.owners, np.repeat(np.arange(count), false)])
    labels = np.concatenate([images.labels, (random.random(elsewhere) < 0.4).astype(np.int64)])
    areas = np.concatenate([images.areas, random.integers(1, 4, elsewhere)])
    overlap = np.concatenate([overlap, np.zeros(elsewhere)])
    best = np.lexsort((-scores, labels))
    owners, labels, areas, overlap = owners[best], labels[best], areas[best], overlap[best]
    counted = np.stack([np.ones(len(areas), dtype=np.bool_), *(areas == one for one in (1, 2, 3))])
    counted = np.repeat(counted[:, None], len(IOUS), axis=1)
    objects = np.zeros((len(AREAS), 2, count), dtype=np.int32)
    for area in range(len(AREAS)):
        here = (images.areas == area) | (area == 0)
        np.add.at(objects[area], (images.labels[here], images.owners[here]), 1)
    right = counted & (overlap >= IOUS[:, None])
    return Matches(("common", "rare"), np.searchsorted(labels, [0, 1, 2]), owners, right, counted, objects)


def pair(
    effects: NDArray[np.float64], world: World, images: Images, random: np.random.Generator
) -> tuple[Matches, Matches]:
    """What both twins of a seed find: alone, distilled; `effects` are shared, alone's and distilled's, standard."""
    skills = world.shared * effects[0] + world.own * effects[1:]
    alone = found_by(skills[0], False, world, images, random)
    return alone, found_by(skills[1] + (world.gain or 0.0), world.gain is not None, world, images, random)


def of_all(matches: Matches, times: NDArray[np.int64], figure: str) -> NDArray[np.float64]:
    """A figure in percent of every choice."""
    if figure == "AP":  # sizes are left out, for speed
        matches = replace(matches, objects=matches.objects * np.array([1, 0, 0, 0], dtype=np.int32)[:, None, None])
    return figures_of(average_precisions(matches, times))[figure]


def truth(world: World, figure: str, *, images: int = TRUTH_IMAGES, seeds: int = TRUTH_SEEDS) -> Ends:
    """The true difference, and its own standard error: over seeds in opposite pairs, each on images of its own."""
    random, values = np.random.default_rng(10_000), []
    once = np.ones((1, images), dtype=np.int64)
    for _ in range(seeds // 2):
        effects = random.normal(0, 1, 3)
        both = []
        for sign in (1, -1):
            alone, distilled = pair(sign * effects, world, images_of(world, images, random), random)
            both.append(of_all(distilled, once, figure)[0] - of_all(alone, once, figure)[0])
        values.append(np.mean(both))
    return float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)


def study(
    world: World, count: int, seeds: int, *, figure: str, draws: int, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Differences of so many twins on one draw of images, and the same on draws from it; (S,), (S, draws)."""
    images = images_of(world, count, random)
    drawn = random.multinomial(count, np.full(count, 1 / count), size=draws)
    times = np.concatenate([np.ones((1, count), dtype=drawn.dtype), drawn])
    found = []
    for _ in range(seeds):
        alone, distilled = pair(random.normal(0, 1, 3), world, images, random)
        found.append(of_all(distilled, times, figure) - of_all(alone, times, figure))
    values = np.stack(found)
    return values[:, 0], values[:, 1:]


def components(whole: NDArray[np.float64], drawn: NDArray[np.float64]) -> Ends:
    one = difference_of(whole, drawn)
    return one.low, one.high


def hierarchical(whole: NDArray[np.float64], drawn: NDArray[np.float64]) -> Ends:
    seeds, draws = drawn.shape
    chosen = np.random.default_rng(0).integers(0, seeds, (seeds, draws))
    low, high = np.percentile(drawn[chosen, np.arange(draws)].mean(axis=0), (2.5, 97.5))
    return float(low), float(high)


def over_images(whole: NDArray[np.float64], drawn: NDArray[np.float64]) -> Ends:
    low, high = np.percentile(drawn.mean(axis=0), (2.5, 97.5))
    return float(low), float(high)


def over_seeds(whole: NDArray[np.float64], drawn: NDArray[np.float64]) -> Ends:
    half = t_quantile(len(whole) - 1) * float(whole.std(ddof=1)) / len(whole) ** 0.5
    return float(whole.mean()) - half, float(whole.mean()) + half


RULES = {"components": components, "hierarchical": hierarchical, "images": over_images, "seeds": over_seeds}
WORLDS = {
    "seeds differ most": World(own=0.1, moved=0.1, both=0.1),
    "seed and image": World(own=0.03, moved=0.2, both=0.4),
    "images differ most": World(own=0.015, moved=0.7, both=0.15),
    "all of it": World(own=0.05, moved=0.4, both=0.3),
}
# World, gain, images, figure: None is a comparison of two students alone.
STUDIES = (
    *((name, 0.2, 124, "AP") for name in WORLDS),
    *((name, None, 124, "AP") for name in WORLDS),
    ("all of it", 0.0, 124, "AP"),
    ("all of it", 0.2, 60, "AP"),
    ("all of it", 0.2, 124, "APs"),
    ("all of it", 0.2, 400, "AP"),
    ("all of it", None, 400, "AP"),
)
LONE_IMAGES = (60, 124)


def row(chosen: tuple[str, float | None, int, str], *, studies: int, draws: int) -> dict[str, Any]:
    """How the rules do in so many studies, read with the first 2, 3 and 5 of their seeds."""
    name, gain, images, figure = chosen
    world, random = replace(WORLDS[name], gain=gain), np.random.default_rng([images, *name.encode()])
    began = time.process_time()
    real, error = (0.0, 0.0) if gain is None else truth(world, figure)
    made = [study(world, images, max(SEEDS), figure=figure, draws=draws, random=random) for _ in range(studies)]
    parts = [difference_of(*one) for one in made]
    spread = {
        part: round(float(np.sqrt(np.mean([(getattr(one, part) or 0.0) ** 2 for one in parts]))), 3)
        for part in ("of_seeds", "of_images", "of_both")
    }
    return {
        "world": name,
        **asdict(world),
        "images": images,
        "figure": figure,
        "studies": studies,
        "draws": draws,
        "true_difference": round(real, 3),
        "its_standard_error": round(error, 3),
        "mean_difference": round(float(np.mean([one.mean for one in parts])), 3),
        **spread,
        "rules": {str(seeds): told(made, seeds, real) for seeds in SEEDS},
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def one_seed(world: World, images: int, *, studies: int, draws: int) -> dict[str, Any]:
    """How often the interval of one pair of twins holds what these two students would differ by on very many images."""
    random, held = np.random.default_rng(images), {"components": 0, "images": 0}
    for _ in range(studies):
        effects, values = random.normal(0, 1, 3), []
        for count, resampled in ((images, draws), (TRUTH_IMAGES, 0)):
            drawn = random.multinomial(count, np.full(count, 1 / count), size=resampled)
            times = np.concatenate([np.ones((1, count), dtype=drawn.dtype), drawn])
            alone, distilled = pair(effects, world, images_of(world, count, random), random)
            values.append(of_all(distilled, times, "AP") - of_all(alone, times, "AP"))
        for name in held:
            low, high = RULES[name](values[0][:1], values[0][None, 1:])
            held[name] += low <= values[1][0] <= high
    inside = {name: round(float(count) / studies, 3) for name, count in held.items()}
    return {**asdict(world), "images": images, "studies": studies, "draws": draws, "inside": inside}


def told(
    made: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], seeds: int, real: float
) -> dict[str, dict[str, float]]:
    """Of every rule how many intervals hold the true difference, claim a gain or harm, and how wide they are."""
    found = {}
    for name, rule in RULES.items():
        ends = np.array([rule(whole[:seeds], drawn[:seeds]) for whole, drawn in made])
        found[name] = {
            "inside": round(float(((ends[:, 0] <= real) & (real <= ends[:, 1])).mean()), 3),
            "gain_claimed": round(float((ends[:, 0] > 0).mean()), 3),
            "harm_claimed": round(float((ends[:, 1] < 0).mean()), 3),
            "median_half_width": round(float(np.median(ends[:, 1] - ends[:, 0])) / 2, 2),
        }
    return found


def main() -> None:
    """Makes the studies that the file does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where the figures are kept; goes on from there")
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--draws", type=int, default=100)
    given = parser.parse_args()
    have = read_json(given.json) if given.json.is_file() else {"rows": [], "one_seed": []}
    rows, lone = have["rows"], have.get("one_seed", [])
    for chosen in STUDIES[len(rows) :]:
        rows.append(row(chosen, studies=given.studies, draws=given.draws))
        own = [rows[-1]["rules"][str(seeds)]["components"] for seeds in SEEDS]
        print(*chosen, *(f"{one['inside']:.3f} (gain {one['gain_claimed']:.3f})" for one in own), flush=True)
        write_json(given.json, {"machine": machine(torch.device("cpu")), "rows": rows, "one_seed": lone})
    for images in LONE_IMAGES[len(lone) :]:
        world = replace(WORLDS["all of it"], gain=0.2)
        lone.append(one_seed(world, images, studies=given.studies, draws=given.draws))
        print("one seed", images, lone[-1]["inside"], flush=True)
        write_json(given.json, {"machine": machine(torch.device("cpu")), "rows": rows, "one_seed": lone})


if __name__ == "__main__":
    main()
