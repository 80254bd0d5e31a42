from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from detdistill.cli import main
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.complexity import FEATURES, HEADS, SECOND_STAGE, complexity, seconds_per_image
from detdistill.errors import ConfigError
from detdistill.jobs.profile import profile_job
from detdistill.papers.rows import Paper, PublishedComplexity, read_paper
from detdistill.papers.table import complexity_text, count_complexity
from detdistill.store.students import save_detector


def build(name: str, classes: int = 3, **changes: object) -> torch.nn.Module:
    return build_detector(replace(parse_detector(name), **changes), tuple(f"c{k}" for k in range(classes)), seed=0)


# AID's table 3. Its multiply-adds, there called GFLOPs, fit 224 x 224 pixels.
TABLE_3 = {said.detector: (said.parameters, said.gflops) for said in read_paper("aid")[0].complexity}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name.endswith("101") else []) for name in TABLE_3]
)
def test_detectors_stand_beside_aids_table(name):
    """Within 2 % at KITTI's 3 classes: the stem and the first stage that AID freezes count as parameters here."""
    found = complexity(build(name), height=224, width=224)
    millions, billions = TABLE_3[name]
    assert found.parameters / 1e6 == pytest.approx(millions, rel=0.02)
    assert found.total_macs / 1e9 == pytest.approx(billions, rel=0.02)
    assert found.proposals == (1000 if name.startswith("faster") else None)


def test_a_papers_table_of_costs_stands_beside_ours():
    said = PublishedComplexity("fcos/tiny", parameters=0.5, gflops=0.25, classes=2, pixels=64)
    own = complexity(build("fcos/tiny", classes=2), height=64, width=64)
    (line,) = count_complexity(Paper("a paper", "made up", complexity=(said,)))
    assert (line.published, line.parameters, line.gflops) == (said, own.parameters / 1e6, own.total_macs / 1e9)
    header, _, row, empty = complexity_text([line])
    assert header.split() == ["detector", "classes", "pixels", "parameters,", "M", "ours", "GFLOPs", "ours"]
    assert row.split() == ["fcos/tiny", "2", "64", "0.50", f"{line.parameters:.2f}", "0.25", f"{line.gflops:.2f}"]
    assert empty == ""
    assert complexity_text([]) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE_3)
def test_aids_parameters_are_those_of_11_classes_with_the_first_stage_frozen(name):
    """To the second decimal, once the box regression of Faster R-CNN's background is left out, 4 * (1024 + 1) numbers,
    which the authors' framework has not."""
    found = complexity(build(name, classes=11, freeze_stages=1), height=64, width=64)
    extra = 4 * 1025 if name.startswith("faster") else 0
    assert round((found.trainable - extra) / 1e6, 2) == TABLE_3[name][0]


def test_multiply_adds_of_a_convolution_by_hand():
    """FCOS/tiny on 64 x 64: the heads' macs fall in proportion to the cells, and grow with the classes alone as
    3 x 3 x channels x cells for each further class."""
    few, more = (complexity(build("fcos/tiny", classes=k), height=64, width=64) for k in (2, 5))
    cells = (64 // 8) ** 2 + (64 // 16) ** 2 + (64 // 32) ** 2
    assert more.macs[HEADS] - few.macs[HEADS] == 3 * 9 * 32 * cells
    assert more.macs[FEATURES] == few.macs[FEATURES]
    assert more.parameters - few.parameters == 3 * (9 * 32 + 1)
    assert few.total_macs == sum(few.macs.values())


def test_the_second_stage_costs_what_its_proposals_cost():
    """Two layers of 256 and the predictions (4 + 1 classes, 4 coordinates each) for 256 proposals of 64 x 7 x 7."""
    found = complexity(build("faster_rcnn/small", classes=4), height=64, width=96)
    each = 64 * 49 * 256 + 256 * 256 + 256 * 5 + 256 * 20
    assert (found.macs[SECOND_STAGE], found.proposals) == (256 * each, 256)


def test_frozen_stages_are_not_trainable_and_modes_are_kept():
    detector = build("retinanet/tiny", freeze_stages=1)
    detector.train()
    modes = [module.training for module in detector.modules()]
    found = complexity(detector, height=64, width=64)
    assert found.trainable < found.parameters
    assert seconds_per_image(detector, height=64, width=64, rounds=1) > 0
    assert [module.training for module in detector.modules()] == modes
    assert all(parameter.grad is None for parameter in detector.parameters())


def test_profile_of_every_kind_of_model(tmp_path, capsys):
    save_detector(build("fcos/tiny"), tmp_path / "run", image={"short_side": 64, "long_side": 64})
    saved = profile_job(str(tmp_path / "run"), size=(64, 96), rounds=1)
    assert (saved.classes, saved.height, saved.width) == (3, 64, 96)
    named = profile_job("fcos/tiny", size=(64, 96), classes=3, rounds=1)
    assert named.complexity == saved.complexity
    foreign = profile_job("torchvision:fasterrcnn_mobilenet_v3_large_fpn", size=(64, 64), rounds=1)
    assert (foreign.classes, foreign.complexity.proposals) == (80, 1000)
    # torchvision publishes 19 386 354: there the backbone's norms are frozen buffers.
    assert foreign.complexity.parameters == pytest.approx(19_386_354, rel=0.002)
    text = "\n".join(foreign.table())
    assert text.startswith("torchvision:fasterrcnn_mobilenet_v3_large_fpn: 80 classes, 64 x 64 pixels\n  parameters")
    assert "(1000 proposals)" in text
    assert "proposals" not in "\n".join(named.table())
    content = json.loads(json.dumps(named.as_dict()))
    assert content["flops"] == 2 * content["total_macs"] == 2 * sum(content["macs"].values())
    assert content["machine"]["threads"] == torch.get_num_threads()


def test_the_command(tmp_path, capsys):
    line = ["profile", "fcos/tiny", "--size", "64", "96", "--classes", "3", "--json", str(tmp_path / "p.json")]
    assert main(line) == 0
    assert capsys.readouterr().out.splitlines()[0] == "fcos/tiny: 3 classes, 64 x 96 pixels"
    assert json.loads((tmp_path / "p.json").read_text())["classes"] == 3


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            "runs/none",
            {},
            r"must be FAMILY/BACKBONE with a family of .*, a run folder, .*, got 'runs/none'",
        ),
        ("fcos/tiny", {"size": (16, 64)}, r"must be 32 pixels or more, got 16 and 64\. 224 224"),
        ("fcos/tiny", {"classes": 0}, r"must be 1 or more, got 0\. Leave it out"),
        ("fcos/tiny", {"rounds": 0, "size": (64, 64)}, r"rounds of timing must be 1 or more, got 0\. 10"),
        (
            "torchvision:fcos_resnet50_fpn",
            {"classes": 3},
            r"must be left out for torchvision:.*, got 3\. It has its own",
        ),
        ("torchvision:fcos", {}, r"must be torchvision:NAME, got 'torchvision:fcos'"),
        ("fcos/tinny", {}, "got 'tinny'.*Did you mean 'tiny'"),
    ],
)
def test_what_cannot_be_profiled(model, options, message):
    with pytest.raises(ConfigError, match=message):
        profile_job(model, **options)
