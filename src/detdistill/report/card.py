"""A model card for a hub: a detector's figures and words as Markdown below YAML, whatever names they hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import punctuation
from typing import Any

from detdistill.progress import in_bytes
from detdistill.report.page.gather import DISTILLED, Gathered

_PLAIN = frozenset("-,")
_NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Exported:
    """A file for other programs beside the weights: its name, the figures of its proof, and how it agrees in words."""

    name: str
    proof: Mapping[str, Any]
    agreement: str


def literal(text: str) -> str:
    """A name as Markdown shows it, on one line: no sign in it is markup, HTML, a link or the end of a cell."""
    signs = (one if one.isprintable() else " " for one in text)
    return "".join(f"&#{ord(one)};" if one in punctuation and one not in _PLAIN else one for one in signs)


def model_card(
    name: str,
    *,
    found: Gathered,
    class_names: Sequence[str],
    image: Mapping[str, Any],
    family: str,
    parameters: int,
    data: str,
    licence: str | None,
    exported: Exported | None = None,
) -> str:
    """The README.md of a detector in a hub.

    Args:
        name: of the repository, ``"OWNER/NAME"``.
        found: what its run measured.
        class_names: in label order.
        image: how images are prepared, as `data.image` has it.
        family: what it is, such as ``"fcos"``.
        parameters: how many.
        data: the name of the data set.
        licence: as the hub writes it, such as ``"apache-2.0"``; None where nobody said.
        exported: the detector as a file for other programs, where there is one.
    """
    head = {
        "license": licence or "unknown",
        "library_name": "detdistill",
        "pipeline_tag": "object-detection",
        "tags": ["detdistill", "object-detection", *(["distillation"] if found.main == DISTILLED else [])],
    }
    size = ", ".join(f"{key} {value}" for key, value in image.items()) or "not recorded"
    method = str(found.results.get("method") or "")
    facts = {
        "family": literal(family),
        "parameters": f"{parameters:,}",
        "image size": literal(size),
        "data": literal(data),
        "trained by": f"distillation, {literal(method)}" if method else "training without a teacher",
        "licence": literal(licence) if licence else "not stated: ask the owner before you use it",
    }
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", "", f"# {literal(name)}"]
    lines += ["", f"{_verdict(found)}", "", *_table(("", ""), list(facts.items())), "", "## Figures", ""]
    lines += [*_figures(found), "", "## Classes", "", "In label order:", ""]
    own = found.figures[found.main][0].per_class if found.main in found.figures else {}
    lines += _table(
        ("label", "class", "AP"),
        [(str(at), literal(one), _number(own.get(one))) for at, one in enumerate(class_names)],
    )
    lines += ["", "## How to load it", "", "```python", "import detdistill", ""]
    lines += [f'loaded = detdistill.load_detector("hf:{name}")', "```", ""]
    lines += [] if exported is None else _exported(exported)
    lines += ["## What was not measured", "", *(f"- {one}" for one in _limits(found))]
    return "\n".join(lines) + "\n"


def _verdict(found: Gathered) -> str:
    """The verdict in a sentence, with the interval of the difference."""
    if found.verdict is None:
        return (
            "Whether distillation helped was not judged." if found.main == DISTILLED else "Trained without a teacher."
        )
    said = f"Distillation against the student alone: {literal(str(found.verdict['sentence']))}."
    gain = found.verdict["same_steps"]["figures"]["AP"]
    if None in (gain["mean"], gain["low"], gain["high"]):
        return said
    interval = f"{gain['mean']:+.1f} AP, 95 % interval {gain['low']:+.1f} to {gain['high']:+.1f}"
    return f"{said} Over the same steps: {interval}."


def _figures(found: Gathered) -> list[str]:
    """COCO's figures of all detectors that the run measured, in percent, on its validation images."""
    if not found.figures:
        return ["Nothing was measured."]
    columns = tuple(next(iter(found.figures.values()))[0].figures())
    rows = [
        (name.replace("_", " "), *(_number(one) for one in several[0].figures().values()))
        for name, several in found.figures.items()
    ]
    return ["COCO's average precision in percent, on the validation images:", "", *_table(("", *columns), rows)]


def _exported(one: Exported) -> list[str]:
    """How the exported file is run, and what it finds beside PyTorch."""
    proof = one.proof
    columns = tuple(key for key in proof["pytorch"] if key.startswith("AP"))
    rows = [
        (name, *(_number(proof[side].get(key), 2) for key in columns), in_bytes(proof[side]["bytes"]))
        for name, side in (("PyTorch", "pytorch"), (one.name, "exported"))
    ]
    form = f"opset {proof['opset']}, {proof['bits']} bits, boxes suppressed {proof['nms']}"
    return [
        "## Without detdistill",
        "",
        f"`{one.name}` ({form}) needs numpy, Pillow and onnxruntime, and detdistill's `export/runtime.py`, one file:",
        "",
        "```bash",
        f"python runtime.py {one.name} image.jpg",
        "```",
        "",
        f"Beside PyTorch, on {proof['images']} validation images: {one.agreement}.",
        "",
        *_table(("", *columns, "size"), rows),
        "",
    ]


def _limits(found: Gathered) -> list[str]:
    told = ["Images of any other source than the data above.", "Speed on your machine, and fairness between groups."]
    if found.main == DISTILLED and found.verdict is None:
        told.insert(0, "Whether the gain is more than chance: no interval was computed.")
    elif found.verdict is not None and len(found.verdict["same_steps"]["seeds"]) < 2:
        told.insert(0, "Other seeds: the interval is of one seed.")
    if found.verdict is not None and not found.verdict.get("same_time"):
        told.insert(0, "The student alone trained for as long as the distillation took.")
    if not found.figures:
        told.insert(0, "Average precision.")
    return told


def _number(value: float | None, decimals: int = 1) -> str:
    return _NOT_MEASURED if value is None else f"{value:.{decimals}f}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]
