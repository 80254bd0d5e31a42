"""DETRs as ONNX files find what PyTorch finds, in any number of images of any size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo import guards

from detdistill.data.transforms import ImageSettings
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.hf_teachers import load_hf
from detdistill.errors import CapabilityError
from detdistill.export import executorch_file, graph, runtime
from detdistill.types import Need
from scenes_in_memory import CLASSES, SHALLOW_D_FINE, scene_batch

pytest.importorskip("transformers")
pytest.importorskip("onnxscript")


TWO_STAGE = {"two_stage": True, "with_box_refine": True, "two_stage_num_proposals": 20}
# The exporter takes as long as there are operations. A second layer of an encoder, or of a decoder whose layers hand on
# no boxes, is the first again.
FEWER: dict[str, dict[str, Any]] = {
    "deformable_detr_tiny": {"encoder_layers": 1},
    **{name: {"encoder_layers": 1, "decoder_layers": 1} for name in ("detr_tiny", "table_transformer_tiny")},
    "d_fine_tiny": SHALLOW_D_FINE,
    **{name: {"encoder_layers": 1} for name in ("conditional_detr_tiny", "dab_detr_tiny")},
}
SIZED = (
    "conditional_detr_tiny",
    "dab_detr_tiny",
    "table_transformer_tiny",
    "deformable_detr_tiny of two stages",
    "yolos",
)


@pytest.fixture(autouse=True)
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an export says of shapes becomes no function of Python's, which a compiled model asks, a file never."""
    made = "def ___make_guard_fn({}):\n    return lambda L: True\n"
    monkeypatch.setattr(guards, "build_guard_function", lambda _parts, names: ("", made.format(names)))


def built(name: str, folder: Path) -> Any:
    if name == "yolos":
        from transformers import YolosConfig, YolosForObjectDetection

        sides = {"hidden_size": 32, "intermediate_size": 64, "image_size": [64, 96], "patch_size": 16}
        config = YolosConfig(num_hidden_layers=2, num_attention_heads=4, num_detection_tokens=20, **sides)
        YolosForObjectDetection(config).save_pretrained(folder)
        return load_hf(f"hf:{folder}").detector
    preset, _, staged = name.partition(" ")
    settings: Any = parse_detector(f"hf:{preset}")
    config = FEWER.get(preset, {}) | (TWO_STAGE if staged else {})
    return build_detector(replace(settings, config=config), CLASSES, seed=0)


@pytest.mark.slow  # half a minute each; what is exported is held to `detect` in tests/unit/test_hf.py
@pytest.mark.parametrize("name", ["rtdetr_v2_tiny", "d_fine_tiny", "detr_tiny", "deformable_detr_tiny", *SIZED])
def test_a_file_says_what_pytorch_says(name: str, tmp_path: Path) -> None:
    detector = built(name, tmp_path)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one in detector.parameters():
            one.add_(0.1 * torch.randn(one.shape, generator=generator))  # no two cells score alike
        if name != "yolos":
            detector.train()(scene_batch(), frozenset({Need.TASK_LOSS}))
    size = (96, 128) if name in SIZED else None
    assert bool(detector.one_size) == bool(size)
    model = runtime.Detector(graph.export_onnx(detector.eval(), ImageSettings(96, 128), graph.Form(size=size)))
    for count, given in ((1, (64, 96)), (4, (96, 64)), (3, (96, 128))):
        grid = size or given
        # Cells of padding are all alike where it is a part of the picture: which of them become queries means nothing.
        apart = (5, 9) if detector.parts.own_frame else (0, 0)
        inside = [(grid[0] - apart[0] * row, grid[1] - apart[1] * row) for row in range(count)]
        batch = scene_batch(((),) * count, sizes=inside, grid=grid)
        sizes = torch.tensor(batch.sizes)
        with torch.no_grad():
            wanted = detector.candidates(batch, sizes)
        said = model.session.run(None, {"images": batch.images.numpy(), "sizes": sizes.numpy()})
        for ours, theirs, most in ((wanted.boxes, said[0], 0.05), (wanted.scores, said[1], 1e-4)):
            between = np.abs(ours.numpy()[:, :, None] - theirs[:, None]).max(axis=3)
            assert max(between.min(axis=1).max(), between.min(axis=2).max()) < most


@pytest.mark.parametrize("name", ["detr_tiny"])
def test_a_program_of_executorch_is_refused_by_a_sentence(name: str) -> None:
    pytest.importorskip("executorch")
    detector = build_detector(parse_detector(f"hf:{name}"), CLASSES, seed=0)
    with pytest.raises(CapabilityError, match=r"got hf:detr_tiny: its code takes shapes for numbers.* Write --to onnx"):
        executorch_file.TARGET.make(detector, ImageSettings(96, 128), graph.Form(), lambda content: content)
