"""Distillation in a plain PyTorch loop: your optimiser, your schedule, your batches.

Needs a teacher, such as the one that ``make demo`` leaves in runs/demo:

    python examples/plain_loop.py runs/demo/teacher runs/demo/scenes runs/mine
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from detdistill.threads import quiet_threads

quiet_threads()

import torch  # noqa: E402

from detdistill import (  # noqa: E402
    Clock,
    DistillationStep,
    FrozenTeacher,
    build_detector,
    build_recipe,
    load_detector,
    parse_detector,
    save_detector,
)
from detdistill.data.dataset import DetectionDataset  # noqa: E402
from detdistill.data.loader import training_loader  # noqa: E402
from detdistill.data.sources import open_split  # noqa: E402
from detdistill.data.transforms import AugmentSettings, ImageSettings  # noqa: E402


def distil(teacher_run: Path, data: Path, out: Path, *, steps: int = 100) -> list[float]:
    """Distils the teacher of a run into a small student; returns the loss of every step."""
    loaded = load_detector(teacher_run)
    teacher = FrozenTeacher(loaded.detector)
    annotations, _ = open_split(data, "train", class_names=teacher.spec.class_names)
    image = ImageSettings(**loaded.image)
    dataset = DetectionDataset(annotations, image=image, augment=AugmentSettings())
    student = build_detector(parse_detector("fcos/tiny"), teacher.spec.class_names, seed=0)
    step = DistillationStep(student, teacher, build_recipe("frs", student.spec, teacher.spec)).train()
    optimizer = torch.optim.AdamW(step.parameters(), lr=1e-3)
    losses = []
    for index, batch in enumerate(training_loader(dataset, batch_size=8, steps=steps)):
        report = step(batch, Clock(step=index, total_steps=steps))
        optimizer.zero_grad()
        report.total.backward()
        optimizer.step()
        losses.append(float(report.total.detach()))
    save_detector(student, out, image=asdict(image))
    return losses


if __name__ == "__main__":
    trace = distil(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
    sys.stdout.write(f"loss {trace[0]:.3f} -> {trace[-1]:.3f}; student in {sys.argv[3]}\n")
