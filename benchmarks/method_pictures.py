"""What each method looks at, as pictures for docs/methods: how hard it pulls at each cell of the student's maps.

    python benchmarks/method_pictures.py --demo runs/demo

One of the demo's validation scenes, its teacher and its student alone. A method's aligners first learn for 60 steps
beside a student that stands still, since untrained ones see noise. Then the gradient of all the method's terms is taken
at the maps that the student's heads read, and its length over the channels drawn, each level on its own scale; of a
method that draws at random the mean over 8 draws. `ld` needs another kind of detector, of which a pair is trained first
(GFL, 300 and 150 steps).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import detdistill

detdistill.quiet_threads()

import torch  # noqa: E402 (the threads' settings are made before torch loads)
from matplotlib import colormaps  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402
from torch import Tensor  # noqa: E402

from detdistill.distillation.weigh import Weigh  # noqa: E402
from detdistill.jobs.opening import OpenedSplit  # noqa: E402
from detdistill.report.draw import Mark, draw_marks  # noqa: E402
from detdistill.report.palette import INK, WHITE, font  # noqa: E402

SCENE, STEPS, DRAWS, SCALE, GAP, HEAD = 99, 60, 8, 3, 6, 22
TEXTS = {
    **{name: name for name in ("hint", "attention", "frs", "ssim", "fgd", "mgd", "pkd", "cwd", "crosskd", "boxes")},
    "aid": "aid(frs)",
    "ikd": "ikd(frs)",
    "ld": "ld",
}
HOW_STRONG = "strength=3"  # a number is what makes features standardised, as `distill` has it


def one_scene(demo: Path, folder: Path) -> Path:
    """A data set of the one scene that all pictures show."""
    file = demo / "scenes/val.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["images"] = [one for one in content["images"] if one["id"] == SCENE]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] == SCENE]
    (folder / "train.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "images").symlink_to((demo / "scenes/images").resolve())
    return folder / "train.json"


def opened(path: Path, loaded: detdistill.api.pieces.LoadedDetector) -> OpenedSplit:
    """A data set as the teacher sees it."""
    return detdistill.open_data(path, class_names=loaded.class_names, image=loaded.image)


def pulls(text: str, teacher_run: Path, student_run: Path, labelled: Path, scene: Path) -> dict[str, object]:
    """The batch that is drawn, and by stride the length of the gradient in each cell and AID's weight."""
    torch.manual_seed(0)
    loaded = detdistill.load_detector(teacher_run)
    student = detdistill.load_detector(student_run).detector
    teacher = detdistill.FrozenTeacher(loaded.detector)
    recipe = detdistill.build_recipe(text, student.spec, teacher.spec)
    step = detdistill.DistillationStep(student, teacher, recipe).train()
    own = {id(parameter) for parameter in student.parameters()}
    rest = [parameter for parameter in step.parameters() if id(parameter) not in own and parameter.requires_grad]
    middle = detdistill.Clock(step=STEPS, total_steps=2 * STEPS)
    if rest:
        optimizer = torch.optim.AdamW(rest, lr=3e-3)
        for batch in opened(labelled, loaded).batches(8, steps=STEPS):
            optimizer.zero_grad()
            step(batch, middle).total.backward()
            optimizer.step()
    batch = next(iter(opened(scene, loaded).batches(1, steps=1)))
    lengths: dict[int, Tensor] = {}
    weights: dict[int, float] = {}
    shown = batch
    for _ in range(DRAWS):
        seen = step.see(batch, step.recipe.at(middle))
        pairs = seen.pairs()
        total = torch.zeros(())
        for term in step.recipe.at(middle).terms:
            cost = term.term(pairs[term.view], middle)
            values = cost.values
            if isinstance(term.weigh, Weigh):
                weight = seen.weight(term.weigh, cost.strides, term.term.knowledge)
                weights = {stride: float(one) for stride, one in zip(cost.strides, weight[0], strict=True) if stride}
                values = values * weight
            total = total + term.gain * values.sum()
        view = list(seen.students)[-1]
        shown, maps = view(seen.batch), seen.students[view].maps
        gradients = torch.autograd.grad(total, maps.levels, allow_unused=True)
        for stride, gradient in zip(maps.strides, gradients, strict=True):
            if gradient is not None:
                lengths[stride] = lengths.get(stride, torch.zeros(())) + gradient[0].norm(dim=0)
    return {"batch": shown, "lengths": lengths, "weights": weights, "classes": loaded.class_names}


def picture(found: Mapping[str, object]) -> Image.Image:
    """The scene with its objects, and one panel for each level."""
    batch, lengths, weights = found["batch"], found["lengths"], found["weights"]
    pixels = (batch.images[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    scene = Image.fromarray(pixels)
    width, height = scene.width * SCALE, scene.height * SCALE
    targets = batch.targets[0]
    marks = [Mark(tuple(box), int(label)) for box, label in zip(targets.boxes.tolist(), targets.labels, strict=True)]
    panels = [
        ("the image and its objects", draw_marks(scene, marks, class_names=found["classes"], least_width_px=width))
    ]
    grey = scene.convert("L").convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    for stride, length in sorted(lengths.items()):
        top = max(float(length.max()), 1e-30)
        colours = (colormaps["inferno"]((length / top).numpy())[:, :, :3] * 255).astype("uint8")
        size = (length.shape[1] * stride * SCALE, length.shape[0] * stride * SCALE)
        heat = Image.fromarray(colours).resize(size, Image.Resampling.NEAREST).crop((0, 0, width, height))
        told = f"stride {stride}" + (f", weight {weights[stride]:.2f}" if stride in weights else "")
        panels.append((told, Image.blend(grey, heat, 0.65)))
    columns, rows = 2, math.ceil(len(panels) / 2)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + HEAD)), WHITE)
    draw = ImageDraw.Draw(sheet)
    for index, (title, panel) in enumerate(panels):
        left, top_px = (index % columns) * (width + GAP), (index // columns) * (height + HEAD)
        draw.text((left + 2, top_px + 3), title, fill=INK, font=font(14))
        sheet.paste(panel.resize((width, height)), (left, top_px + HEAD))
    return sheet


def main() -> None:
    """Writes docs/methods/NAME.webp for every method that looks at maps."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--demo", type=Path, default=Path("runs/demo"))
    asked.add_argument("--gfl", type=Path, default=Path("runs/gfl_pair"), help="where the pair for ld is, or is made")
    asked.add_argument("--out", type=Path, default=Path("docs/methods"))
    asked.add_argument("--only", nargs="*", default=list(TEXTS))
    chosen = asked.parse_args()
    labelled = chosen.demo / "scenes/labelled.json"
    labelled = labelled if labelled.is_file() else chosen.demo / "labelled.json"
    if "ld" in chosen.only:
        for name, detector, steps in (("teacher", "gfl/small", 300), ("student", "gfl/tiny", 150)):
            if not (chosen.gfl / name / "results.json").is_file():
                detdistill.train(
                    *("data.image.short_side=96", "data.image.long_side=160", "train.threads=1", "train.lr=4e-3"),
                    detector=detector,
                    data=chosen.demo / "scenes",
                    out=chosen.gfl / name,
                    steps=steps,
                )
    with tempfile.TemporaryDirectory() as folder:
        scene = one_scene(chosen.demo, Path(folder))
        for name in chosen.only:
            text = TEXTS[name]
            text = f"{text[:-1]}, {HOW_STRONG})" if text.endswith(")") else f"{text}({HOW_STRONG})"
            pair = (chosen.gfl / "teacher", chosen.gfl / "student")
            runs = pair if name == "ld" else (chosen.demo / "teacher", chosen.demo / "alone")
            file = chosen.out / f"{name}.webp"
            picture(pulls(text, *runs, labelled, scene)).save(file, quality=72, method=6)
            sys.stdout.write(f"{file}: {file.stat().st_size / 1000:.0f} kB\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
