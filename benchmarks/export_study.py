"""What an exported file finds beside PyTorch, for every family, format and form, after 60 steps on drawn scenes.

    python benchmarks/export_study.py --page docs/export.md

Each family's smallest preset is trained, then exported raw and with suppression inside, in 32, 16 and 8 bits, and
to OpenVINO and ExecuTorch, and proved on the validation images through the shipped runtime, one at a time and four
at once. Detectors whose graph is of one size get a file of one size. What a format refuses is kept as it is said.
What is finished is not made again; `--tables` writes the tables of what is there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import detdistill
from detdistill.bench.machine import machine
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import Detector
from detdistill.errors import DistillError
from detdistill.export import graph, openvino_file, targets
from detdistill.files import write_bytes, write_json, write_text
from detdistill.scenes import make_scenes

RESULTS = Path(__file__).parent / "results" / "export_study.json"
TABLE = RESULTS.with_name("export_study.md")
HEIGHT, WIDTH = 96, 160
DENSE = ("fcos/tiny", "retinanet/tiny", "gfl/tiny", "faster_rcnn/small")
DETRS = (
    "rtdetr_v2",
    "rtdetr",
    "d_fine",
    "detr",
    "deformable_detr",
    "conditional_detr",
    "dab_detr",
    "table_transformer",
)
MODELS = (*DENSE, *(f"hf:{name}_tiny" for name in DETRS))
RATES = {True: ("train.optimizer=adamw", "train.lr=0.001", "train.clip_norm=1"), False: ("train.lr=0.002",)}
FORMS: dict[str, dict[str, Any]] = {
    "ONNX": {},
    "ONNX, nms inside": {"nms": "inside"},
    "ONNX, 8 bits": {"int8": True},
    "ONNX, nms inside, 8 bits": {"nms": "inside", "int8": True},
    "ONNX, 16 bits": {"half": True},
    "OpenVINO": {"to": "openvino"},
    "OpenVINO, nms inside": {"to": "openvino", "nms": "inside"},
    "OpenVINO, 8 bits": {"to": "openvino", "int8": True},
    "OpenVINO, 16 bits": {"to": "openvino", "half": True},
    "ExecuTorch": {"to": "executorch"},
    "ExecuTorch, 16 bits": {"to": "executorch", "half": True},
}
ENDINGS = {"openvino": ".xml", "executorch": ".pte"}
EARLIER = "°"
"""What a file bears that was measured before four images at once were, on 40 images of 240 x 160 pixels."""
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/export_study"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--page", type=Path, help="a page whose part between the marks is the overview")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    given = parser.parse_args()
    if not given.tables:
        measure(given.out, given.models, given.forms, steps=given.steps, results=given.results)
    content = json.loads(given.results.read_text())
    write_text(given.table, "\n".join(("# Exported files beside PyTorch", "", *whole(content["rows"]))) + "\n")
    if given.page:
        before, _, rest = given.page.read_text().partition(BEGIN)
        middle = "\n".join(("", "", *overview(content["rows"]), "", ""))
        write_text(given.page, f"{before}{BEGIN}{middle}{END}{rest.partition(END)[2]}")


def measure(out: Path, models: Sequence[str], forms: Iterable[str], *, steps: int, results: Path) -> None:
    """Trains, exports and proves whatever is not there yet."""
    data = out / "scenes"
    if not data.is_dir():
        make_scenes(data, train=80, val=24, seed=0, width=WIDTH, height=HEIGHT)
    kept = json.loads(results.read_text())["rows"] if results.is_file() else []
    rows = {(row["model"], row["form"]): row for row in kept}
    for model in models:
        run = out / model.replace("/", "_").replace(":", "_")
        if not (run / "results.json").is_file():
            settings = [f"train.steps={steps}", "train.batch_size=8", "train.device=cpu", *RATES[model[:3] == "hf:"]]
            settings += [f"data.image.short_side={HEIGHT}", f"data.image.long_side={WIDTH}"]
            detdistill.train(*settings, detector=model, data=data, out=run)
        with_one_graph_a_form(run.with_name(f"{run.name}_graphs"))
        for form in forms:
            if not {"at_once", "refused"} & rows.get((model, form), {}).keys():
                rows[model, form] = {"model": model, "form": form, **exported(run, form)}
                print(model, form, cell(rows[model, form]), flush=True)
                ordered = sorted(
                    rows.values(), key=lambda row: (MODELS.index(row["model"]), [*FORMS].index(row["form"]))
                )
                about = {"what": __doc__, "steps": steps, "machine": machine(torch.device("cpu"))}
                write_json(results, {**about, "rows": ordered})


def exported(run: Path, form: str) -> dict[str, Any]:
    """The proof of a file, or the sentence that refuses it; with one size where the family has no other."""
    words = FORMS[form]
    ending = ENDINGS.get(words.get("to", "onnx"), ".onnx")
    out = run.with_name(f"{run.name}_{form.replace(', ', '_').replace(' ', '_')}{ending}")
    told = dict[str, Any]()
    for sized in ({}, {"size": (HEIGHT, WIDTH)}):
        try:
            return detdistill.export_detector(run, out=out, allow_worse=True, **words, **sized).as_dict() | told
        except DistillError as error:
            told = {"refused": str(error)} if not sized else {**told, "refused_in_one_size": str(error)}
    return told


def with_one_graph_a_form(folder: Path) -> None:
    """Formats share what torch's exporter makes of a form, which takes most of the time; it is kept in a folder."""

    def once(detector: Detector, image: ImageSettings, form: graph.Form) -> bytes:
        kept = folder / f"{form.nms}_{form.bits}_{form.size}.onnx".replace(" ", "_")
        if not kept.is_file():
            write_bytes(kept, graph.export_onnx(detector, image, form))
        return kept.read_bytes()

    for module in (targets, openvino_file):
        module.export_onnx = once  # type: ignore[attr-defined]


def cell(row: Mapping[str, Any]) -> str:
    """A file in a few words: how far its boxes are from PyTorch's, or with fewer bits what its AP is."""
    if "agreement" not in row:
        return "refused" if row else ""
    both = [row["agreement"], *([row["at_once"]] if "at_once" in row else [])]
    alone = sum(one["one_alone"] + one["other_alone"] for one in both)
    if row["bits"] == 32:
        said = f"{max(one['box'] for one in both):.1g} px"
        said += f", {alone} of {sum(one['matched'] for one in both)} apart" if alone else ""
    else:
        said = f"{row['pytorch']['AP']:.2f} → {row['exported']['AP']:.2f}"
    said += EARLIER if "at_once" not in row else ""
    return f"{said}, `--size`" if row.get("size") else said


def overview(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Family × format and form."""
    by = {(row["model"], row["form"]): row for row in rows}
    models, forms = list(dict.fromkeys(one for one, _ in by)), [form for form in FORMS if any(form == f for _, f in by)]
    lines = table(("", *forms), [(f"`{one}`", *(cell(by.get((one, form), {})) for form in forms)) for one in models])
    said = dict.fromkeys(row.get("refused_in_one_size", row.get("refused")) for row in rows if "agreement" not in row)
    return [*lines, "", "Refused, as it is said:", "", *(f"- {one}" for one in said)] if said else lines


def whole(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """A row a file."""
    columns = ("", "form", "AP: PyTorch, file", "boxes matched, apart", "largest difference (99 %), px")
    columns += ("4 at once: matched, apart, px", "ms an image: PyTorch, file", "MB")
    lines = []
    for row in (one for one in rows if "agreement" in one):
        found, together = row["agreement"], row.get("at_once")
        ours, theirs = row["pytorch"], row["exported"]
        lines.append(
            (
                f"`{row['model']}`" + ("" if together else EARLIER),
                row["form"] + (", `--size`" if row.get("size") else ""),
                f"{ours['AP']:.2f}, {theirs['AP']:.2f}",
                f"{found['matched']}, {found['one_alone'] + found['other_alone']}",
                f"{found['box']:.2g} ({found['box_99']:.2g})",
                f"{together['matched']}, {together['one_alone'] + together['other_alone']}, {together['box']:.2g}"
                if together
                else "",
                f"{1000 * ours['seconds_per_image']:.0f}, {1000 * theirs['seconds_per_image']:.0f}",
                f"{theirs['bytes'] / 1e6:.2f}",
            )
        )
    return table(columns, lines)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]


if __name__ == "__main__":
    main()
