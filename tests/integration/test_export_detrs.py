"""DETRs as ONNX files find what PyTorch finds, in any number of images of any size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from detdistill.data.transforms import ImageSettings
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.errors import CapabilityError
from detdistill.export import executorch_file, graph, runtime
from detdistill.types import Need
from scenes_in_memory import CLASSES, scene_batch

pytest.importorskip("transformers")
pytest.importorskip("onnxscript")


@pytest.mark.slow  # half a minute each; what is exported is held to `detect` in tests/unit/test_hf.py
@pytest.mark.parametrize("name", ["rtdetr_v2_tiny", "d_fine_tiny", "detr_tiny", "deformable_detr_tiny"])
def test_a_file_says_what_pytorch_says(name: str) -> None:
    detector: Any = build_detector(parse_detector(f"hf:{name}"), CLASSES, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one in detector.parameters():
            one.add_(0.1 * torch.randn(one.shape, generator=generator))  # no two cells score alike
        detector.train()(scene_batch(), frozenset({Need.TASK_LOSS}))
    model = runtime.Detector(graph.export_onnx(detector.eval(), ImageSettings(96, 128), graph.Form(normalise=True)))
    for count, grid in ((1, (64, 96)), (4, (96, 64)), (3, (96, 128))):
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
