"""What an exported file finds beside PyTorch, for every family and form, after a short training on drawn scenes.

    python benchmarks/export_study.py --out runs/export_study --results benchmarks/results/export_study.json

Each family's smallest preset is trained, then exported raw and with suppression inside, in 32, 16 and 8 bits, and to
OpenVINO and ExecuTorch, and proved on the validation images through the shipped runtime. What is finished is not made
again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import detdistill
from detdistill.bench.machine import machine
from detdistill.files import write_json
from detdistill.scenes import make_scenes

DETRS = ("hf:rtdetr_v2_tiny", "hf:d_fine_tiny", "hf:detr_tiny", "hf:deformable_detr_tiny")
MODELS = ("fcos/tiny", "retinanet/tiny", "gfl/tiny", "faster_rcnn/small", *DETRS)
DENSE_RATE, DETR_RATE = ("train.lr=0.002",), ("train.optimizer=adamw", "train.lr=0.001", "train.clip_norm=1")
FORMS: dict[str, dict[str, Any]] = {
    "raw": {},
    "nms inside": {"nms": "inside"},
    "raw, 8 bits": {"int8": True},
    "raw, 16 bits": {"half": True},
    "OpenVINO": {"to": "openvino"},
    "OpenVINO, nms inside": {"to": "openvino", "nms": "inside"},
    "OpenVINO, 8 bits": {"to": "openvino", "int8": True},
    "ExecuTorch": {"to": "executorch"},
}
ENDINGS = {"openvino": ".xml", "executorch": ".pte"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/export_study.json"))
    given = parser.parse_args()
    data = given.out / "scenes"
    if not data.is_dir():
        make_scenes(data, train=120, val=40, seed=0)
    runs = {model: given.out / model.replace("/", "_").replace(":", "_") for model in given.models}
    for model, run in runs.items():
        if not (run / "results.json").is_file():
            settings = [f"train.steps={given.steps}", "train.batch_size=8", "train.device=cpu"]
            settings += ["data.image.short_side=160", "data.image.long_side=240"]
            settings += DETR_RATE if model in DETRS else DENSE_RATE
            detdistill.train(*settings, detector=model, data=data, out=run, progress=detdistill.ScreenProgress())
    rows = []
    for form in given.forms:
        words = FORMS[form]
        for model, run in runs.items():
            ending = ENDINGS.get(words.get("to", "onnx"), ".onnx")
            out = run.with_name(f"{run.name}_{form.replace(', ', '_').replace(' ', '_')}{ending}")
            proof = out.with_suffix(".parity.json")
            if not proof.is_file():
                outcome = detdistill.export_detector(run, out=out, allow_worse=True, **words)
                print("\n".join(outcome.table()), flush=True)
            rows.append({"model": model, "form": form, **json.loads(proof.read_text())})
            content = {"what": __doc__, "steps": given.steps, "machine": machine(torch.device("cpu")), "rows": rows}
            write_json(given.results, content)


if __name__ == "__main__":
    main()
