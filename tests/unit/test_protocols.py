"""Evaluation by the rules of COCO, KITTI, Pascal VOC and AID, from the command line to the figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from detdistill import build_detector, parse_detector, save_detector
from detdistill.cli import main
from detdistill.data.annotations import Annotations
from detdistill.data.formats.kitti import KITTI_TYPES, read_kitti_truths
from detdistill.data.sources import open_split
from detdistill.errors import ConfigError, DataError
from detdistill.evaluation.coco import ImageDetections
from detdistill.evaluation.kitti import KittiMetrics, evaluate_kitti
from detdistill.evaluation.protocols import PROTOCOLS, Examination, Protocol
from detdistill.evaluation.voc import evaluate_voc
from detdistill.jobs.evaluate import EvaluateOutcome, evaluate_job
from detdistill.papers.protocols import AID_CLASSES
from detdistill.progress import Silence
from folders_by_hand import kitti_line, make_coco, make_kitti, make_voc, write
from kitti_by_hand import guesses

OTHER_ORDER = ("Cyclist", "Car", "Pedestrian")


def examine(protocol: str, data: Path, names: Sequence[str] = KITTI_TYPES, *, backend: str = "hotcoco") -> Examination:
    rules = PROTOCOLS.find(protocol)
    return rules.open(data, split="val", class_names=tuple(names), backend=backend, progress=Silence())


def found_everything(annotations: Annotations, names: Sequence[str]) -> list[ImageDetections]:
    """Every object of a class among `names`, under the labels of `names`."""
    return [
        guesses(
            int(annotations.image_ids[index]),
            *(
                (name, annotations.boxes[row], 0.9)
                for row in range(annotations.offsets[index], annotations.offsets[index + 1])
                if not annotations.ignored[row] and (name := annotations.class_names[annotations.labels[row]]) in names
            ),
            names=names,
        )
        for index in range(len(annotations))
    ]


def kitti_of(folder: Path, val: str) -> Path:
    """The folders by hand, with other labels for the validation image d; e shows nothing."""
    make_kitti(folder)
    write(folder / "training" / "label_2" / "d.txt", val)
    write(folder / "training" / "label_2" / "e.txt", "")
    return folder


# KITTI.


@pytest.mark.parametrize(("protocol", "points"), [("kitti", 40), ("kitti11", 11)])
def test_kitti_measures_against_the_label_files(real_data, protocol, points):
    folder = real_data / "kitti33" / "native_kitti"
    annotations, _ = open_split(folder, "val")
    everything = found_everything(annotations, KITTI_TYPES)
    examination = examine(protocol, folder)
    metrics = examination.measure(everything)
    assert isinstance(metrics, KittiMetrics)
    assert metrics == evaluate_kitti(read_kitti_truths(annotations), everything, class_names=KITTI_TYPES, points=points)
    assert metrics.points == points
    # The folder's val split has 28 cars, 5 pedestrians and 2 cyclists, fewer of them easy.
    assert metrics.objects["Car"]["easy"] < metrics.objects["Car"]["hard"] <= 28
    assert metrics.ap["Car"]["hard"] == metrics.ap["Pedestrian"]["hard"] == pytest.approx(100.0)
    assert examination.measure([]).ap["Car"]["hard"] == 0.0


def test_kitti_goes_by_the_names_of_the_detectors_classes(tmp_path):
    data = kitti_of(tmp_path, kitti_line("Car", (0, 0, 30, 28)))
    for names in (("car", "dog"), ("dog", "Car"), OTHER_ORDER):
        label = [name.lower() for name in names].index("car")
        examination = examine("kitti", data, names)
        found = [guesses(1, (names[label], (0, 0, 30, 28), 0.9), names=names)]
        # 28 pixels are high enough for moderate (25), not for easy (40).
        assert examination.measure(found).ap["Car"] == {"easy": None, "moderate": 100.0, "hard": 100.0}


def test_kitti_knows_how_hidden_an_object_is(tmp_path):
    """The second car is hidden too much for moderate: found or not, it does not count there."""
    lines = kitti_line("Car", (0, 0, 15, 28)) + kitti_line("Car", (20, 0, 38, 28), occluded=2)
    examination = examine("kitti", kitti_of(tmp_path, lines))
    one = [guesses(1, ("Car", (0, 0, 15, 28), 0.9), names=KITTI_TYPES)]
    ap = examination.measure(one).ap["Car"]
    assert ap["moderate"] == 100.0
    assert ap["hard"] == pytest.approx(50.0)


@pytest.mark.parametrize("protocol", ["kitti", "kitti11"])
@pytest.mark.parametrize("make", [make_coco, make_voc])
def test_kitti_wants_its_own_layout(tmp_path, make, protocol):
    message = rf"must be in KITTI's own layout for the protocol {protocol}, got a data set read as (COCO|Pascal VOC): "
    with pytest.raises(ConfigError, match=message):
        examine(protocol, make(tmp_path))


# AID.


def test_aid_on_real_kitti_with_classes_in_another_order(real_data):
    folder = real_data / "kitti33" / "native_kitti"
    annotations, _ = open_split(folder, "val")
    examination = examine("aid", folder, OTHER_ORDER)
    metrics = examination.measure(found_everything(annotations, OTHER_ORDER))
    assert metrics.per_class == {name: pytest.approx(100.0) for name in AID_CLASSES}
    mixed_up = examination.measure(found_everything(annotations, AID_CLASSES))
    assert all(value == 0.0 for value in mixed_up.per_class.values())


def test_aids_two_readings_of_a_van(tmp_path):
    """A van is no car where it is ignored: found as one it is no mistake, and not found no miss. Merged it is one."""
    data = kitti_of(tmp_path, kitti_line("Car", (0, 0, 15, 28)) + kitti_line("Van", (20, 0, 38, 28)))
    car = ("Car", (0, 0, 15, 28), 0.8)
    for name, first, merged in (("Car", 100.0, 100.0), ("Van", 100.0, 100.0), ("Misc", 100.0, 50.0)):
        found = [guesses(1, car, (name, (20, 0, 38, 28), 0.9), names=KITTI_TYPES)]
        assert examine("aid", data).measure(found).per_class["Car"] == pytest.approx(first)
        assert examine("aid_merged", data).measure(found).per_class["Car"] == pytest.approx(merged)
    # On nothing, a car is a mistake, a van is none unless it counts as a car.
    for name, first, merged in (("Car", 50.0, 25.0), ("Van", 100.0, 25.0)):
        found = [guesses(1, (name, (0, 15, 3, 28), 0.95), car, names=KITTI_TYPES)]
        assert examine("aid", data).measure(found).per_class["Car"] == pytest.approx(first)
        assert examine("aid_merged", data).measure(found).per_class["Car"] == pytest.approx(merged)


# Pascal VOC and COCO.


@pytest.mark.parametrize("protocol", ["coco", "voc", "voc11"])
@pytest.mark.parametrize("make", [make_coco, make_voc, make_kitti])
def test_the_datas_classes_are_put_into_the_detectors_order(tmp_path, make, protocol):
    names = KITTI_TYPES[::-1] if make is make_kitti else ("Van", "Car")
    examination = examine(protocol, make(tmp_path), names)
    assert examination.annotations.class_names == names
    metrics = examination.measure(found_everything(examination.annotations, names))
    assert [metrics.per_class[name] for name in ("Car", "Van")] == pytest.approx([100.0, 100.0])


def test_vocs_two_means(tmp_path):
    """Of two cars the better guess is right, the other wrong: precision 1 up to recall 1/2, that is 6 of 11 points."""
    data = make_coco(tmp_path)
    found = [guesses(0, ("Car", (5, 5, 25, 20), 0.9), ("Car", (0, 0, 4, 4), 0.5), names=("Car", "Van"))]
    assert examine("voc", data, ("Car", "Van")).measure(found).per_class["Car"] == pytest.approx(50.0)
    assert examine("voc11", data, ("Car", "Van")).measure(found).per_class["Car"] == pytest.approx(100 * 6 / 11)


# What is refused, before a detector runs.


@pytest.mark.parametrize(
    ("protocol", "names", "error", "message"),
    [
        (
            "kity",
            KITTI_TYPES,
            ConfigError,
            r"must be one of aid, aid_merged, coco, kitti, .*, got 'kity'\. Did you mean 'kitti'\?",
        ),
        ("kitti", ("dog",), ConfigError, r"must include one of Car, Pedestrian, Cyclist, got \['dog'\]"),
        (
            "aid",
            ("Car", "Van", "Person_sitting"),
            ConfigError,
            r"include Car, Pedestrian, Cyclist for AID's protocol, got \[.*\] without Pedestrian, Cyclist\. Evaluate a",
        ),
        ("aid_merged", ("Van", "Person_sitting"), ConfigError, r"got \['Van', 'Person_sitting'\] without Cyclist\."),
        ("voc", ("dog", "cat"), DataError, r"the classes of .* must be \['dog', 'cat'\], got \["),
        ("voc", ("Car", "person_sitting"), DataError, r"the classes of .* must be \['Car', 'person_sitting'\], got \["),
        ("coco", ("dog", "cat"), DataError, r"the classes of .* must be \['dog', 'cat'\], got \["),
        (
            "coco",
            ("Car", "person_sitting"),
            DataError,
            r"the classes of .* must be \['Car', 'person_sitting'\], got \[",
        ),
    ],
)
def test_what_does_not_fit_a_protocol_is_refused(tmp_path, protocol, names, error, message):
    with pytest.raises(error, match=message):
        examine(protocol, make_kitti(tmp_path), names)


def test_aid_wants_its_classes_of_the_data_too(tmp_path):
    with pytest.raises(DataError, match=r"must include Pedestrian, got \['Car', 'Van'\]"):
        examine("aid", make_coco(tmp_path))


def test_a_backend_is_cocos(tmp_path):
    with pytest.raises(ConfigError, match=r"The backend faster must come with the protocol coco, got voc\. Leave it"):
        examine("voc", make_coco(tmp_path), ("Car", "Van"), backend="faster")
    assert examine("coco", make_coco(tmp_path), ("Car", "Van"), backend="faster").measure([]).ap == 0.0


# The job and the command.


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in KITTI's layout and an untrained detector for it."""
    folder = tmp_path_factory.mktemp("home")
    make_kitti(folder / "data")
    image = {"short_side": 32, "long_side": 40}
    save_detector(build_detector(parse_detector("fcos/tiny"), KITTI_TYPES, seed=0), folder / "model", image=image)
    return folder


SAID = {
    "coco": ("AP50", "COCO"),
    "kitti": ("objects", "KITTI, 40 recall points"),
    "kitti11": ("objects", "KITTI, 11 recall points"),
    "voc": ("mAP", "Pascal VOC, area under the curve"),
    "voc11": ("mAP", "Pascal VOC, 11 recall points"),
    "aid": ("mAP", "AID, other types ignored"),
    "aid_merged": ("mAP", "AID, other types merged"),
}


@pytest.mark.parametrize("protocol", list(SAID))
def test_the_command_prints_and_writes_every_protocol(home, tmp_path, capsys, protocol):
    model, out = str(home / "model"), tmp_path / "r.json"
    command = ["evaluate", model, "--data", str(home / "data"), "--protocol", protocol, "--json", str(out)]
    assert main(command) == 0
    said = capsys.readouterr()
    figure, rules = SAID[protocol]
    by = " (hotcoco)" if protocol == "coco" else ""
    assert said.out.splitlines()[0] == f"{model} on 2 images by the rules of {rules}{by}, in percent"
    assert "Car" in said.out
    assert "val data read as KITTI" in said.err
    written = json.loads(out.read_text())
    assert (written["checkpoint"], written["protocol"], written["images"]) == (model, protocol, 2)
    assert figure in written


def test_the_command_offers_every_protocol(capsys):
    assert set(PROTOCOLS) == set(SAID)
    assert main(["evaluate", "--help"]) == 0
    assert ", ".join(SAID) in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_a_refusal_is_one_sentence_and_comes_before_the_detector_runs(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("detdistill.jobs.evaluate.detect", lambda *_, **__: pytest.fail("the detector ran"))
    data = make_coco(tmp_path)
    assert main(["evaluate", str(home / "model"), "--data", str(data), "--protocol", "kitti"]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"The data {data} must be in KITTI's own layout for the protocol kitti, got a data set read as COCO" in error


def test_the_job_measures_what_the_detector_found(home, monkeypatch):
    """The labels are the detector's own, the boxes those of the stored images."""
    annotations, _ = open_split(home / "data", "val")
    everything = found_everything(annotations, KITTI_TYPES)
    monkeypatch.setattr("detdistill.jobs.evaluate.detect", lambda *_, **__: everything)
    outcome = evaluate_job(str(home / "model"), home / "data", protocol="voc")
    assert isinstance(outcome, EvaluateOutcome)
    assert outcome.metrics.map == pytest.approx(100.0)
    assert outcome.as_dict()["per_class"]["Van"] == pytest.approx(100.0)
    assert outcome.table()[2].split() == ["class", "AP@0.5", "(area)"]


def test_the_job_takes_a_protocol_of_ones_own(home, monkeypatch):
    """Any rules that are handed in decide the figures, and what the outcome calls itself."""
    monkeypatch.setattr("detdistill.jobs.evaluate.detect", lambda *_, **__: [])
    voc = PROTOCOLS["voc"]
    loose = Protocol("loose", "a loose overlap", lambda truth, *_: partial(evaluate_voc, truth, iou=0.1))
    outcome = evaluate_job(str(home / "model"), home / "data", protocol=loose)
    assert (outcome.metrics.iou, outcome.as_dict()["protocol"]) == (0.1, "loose")
    assert "by the rules of a loose overlap, in percent" in outcome.table()[0]
    assert evaluate_job(str(home / "model"), home / "data", protocol=voc).protocol is voc
