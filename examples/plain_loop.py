"""Distillation in a plain PyTorch loop: your optimiser, your schedule, your batches.

Needs a teacher, such as the one that ``make demo`` leaves in runs/demo:

    python examples/plain_loop.py runs/demo/teacher runs/demo/scenes runs/mine
"""

from __future__ import annotations

import sys
from pathlib import Path

import detdistill

detdistill.quiet_threads()

import torch  # noqa: E402 (the threads' settings are made before torch loads)


def distil(teacher_run: Path, data: Path, out: Path, *, steps: int = 100) -> list[float]:
    """Distils the teacher of a run into a small student; returns the loss of every step."""
    loaded = detdistill.load_detector(teacher_run)
    teacher = detdistill.FrozenTeacher(loaded.detector)
    split = detdistill.open_data(data, class_names=loaded.class_names, image=loaded.image)
    student = detdistill.build_detector("fcos/tiny", split.class_names)
    recipe = detdistill.build_recipe("frs", student.spec, teacher.spec)
    step = detdistill.DistillationStep(student, teacher, recipe).train()
    optimizer = torch.optim.AdamW(step.parameters(), lr=1e-3)
    losses = []
    for index, batch in enumerate(split.batches(8, steps=steps)):
        report = step(batch, detdistill.Clock(step=index, total_steps=steps))
        optimizer.zero_grad()
        report.total.backward()
        optimizer.step()
        losses.append(float(report.total.detach()))
    detdistill.save_detector(student, out, image=split.image)
    return losses


if __name__ == "__main__":
    trace = distil(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
    sys.stdout.write(f"loss {trace[0]:.3f} -> {trace[-1]:.3f}; student in {sys.argv[3]}\n")
