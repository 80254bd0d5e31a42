"""A student in a hub of models: what is written, read back to the bit, uploaded and refused; without a network."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml

import detdistill
from detdistill import files
from detdistill.detectors.frozen import digest
from detdistill.errors import ConfigError
from detdistill.jobs.doors import door_of
from detdistill.report.card import literal
from detdistill.store.sums import digest as digest_of_file

REAL = huggingface_hub.HfApi
HOSTILE = ("car", "a|b", "---", "<script>alert(1)</script>", "[x](http://evil.example)", "*bold*: yes", "two\nlines")
INTERVAL = {"mean": 2.34, "low": 1.2, "high": 3.5}
GAIN = {
    "verdict": "gains",
    "sentence": "distillation gains 2.3 AP",
    "same_steps": {"seeds": [0], "figures": {"AP": INTERVAL}},
    "same_time": None,
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distilled run with names that would be markup."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "run"
    detector = detdistill.build_detector("fcos/tiny", HOSTILE, seed=3)
    detdistill.save_detector(detector, folder, image={"short_side": 32, "long_side": 48})
    files.write_text(
        folder / "config.yaml", f"data: {{folder: {tmp_path}/secret/street_data}}\nmethod: {{name: frs}}\n"
    )
    figures = dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), 23.61)
    figures |= {"per_class": dict.fromkeys(HOSTILE[:2], 40.0)}
    files.write_json(folder / "results.json", {"alone": figures, "distilled": figures, "method": "frs", "gain": GAIN})
    return folder


def proved(run: Path, path: Path, **changed: object) -> Path:
    """What `detdistill export RUN --out PATH` leaves, with some figures changed; those that are None left out."""
    path.write_bytes(b"onnx" * 256)
    ours, theirs = {"AP": 23.61, "AP50": 40.0, "bytes": 2048}, {"AP": 23.5, "AP50": None, "bytes": 1024}
    found = {"matched": 7, "one_alone": 0, "other_alone": 0, "box": 0.002, "box_99": 0.001, "score": 1e-6}
    told = {"opset": 18, "bits": 8, "nms": "inside", "images": 40, "ap_lost": 0.11, "agreement": found}
    told |= {"pytorch": ours, "exported": theirs}
    told |= {"sha256": digest_of_file(path), "student_sha256": digest(detdistill.load_detector(run).detector)}
    told = {key: value for key, value in (told | changed).items() if value is not None}
    files.write_figures(path.with_suffix(".parity.json"), told, command="export", option="--out")
    return path


class Hub:
    """Stands for HfApi: keeps what it is asked, and takes only what the real one takes."""

    def __init__(self, there: list[str] | None = None, refuses: Exception | None = None) -> None:
        self.there, self.refuses, self.asked, self.taken = there, refuses, dict[str, Any](), dict[str, bytes]()

    def __call__(self, *, token: str) -> Hub:
        assert token == "hf_made_up"
        return self

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **words: Any) -> Any:
            bound = inspect.signature(getattr(REAL, name)).bind(self, *args, **words)
            self.asked[name] = {key: value for key, value in bound.arguments.items() if key != "self"}
            if self.refuses is not None:
                raise self.refuses
            if name == "upload_folder":
                self.taken = {one.name: one.read_bytes() for one in Path(words["folder_path"]).rglob("*")}
            answers = {"repo_exists": self.there is not None, "list_repo_files": self.there}
            return answers.get(name, "https://huggingface.co/me/street")

        return call


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(hub: Hub) -> Hub:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_made_up")
        monkeypatch.setattr("huggingface_hub.HfApi", hub)
        return hub

    return put


def test_a_folder_of_the_hub_has_the_same_student_to_the_bit(run: Path, tmp_path: Path) -> None:
    outcome = detdistill.push(run, "hf:me/street", to_folder=tmp_path / "hub")
    source = f"hf:{tmp_path / 'hub'}"
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == sorted(outcome.sizes)
    before, after = detdistill.load_detector(run), detdistill.load_detector(source)
    assert after.class_names == HOSTILE
    assert after.image == before.image
    assert before.detector.settings == after.detector.settings == door_of(source).settings(source)
    mine, theirs = before.detector.state_dict(), after.detector.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert door_of(source).moved(source, lambda path: f"/there{path}") == f"hf:/there{tmp_path / 'hub'}"
    assert str(tmp_path) not in (tmp_path / "hub/student.json").read_text()


def test_the_card_says_what_was_measured_and_no_name_is_markup(run: Path, tmp_path: Path) -> None:
    detdistill.push(run, "hf:me/street", to_folder=tmp_path / "hub", licence="apache-2.0")
    text = (tmp_path / "hub/README.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "apache-2.0"
    assert yaml.safe_load(head)["pipeline_tag"] == "object-detection"
    assert "Over the same steps: +2.3 AP, 95 % interval +1.2 to +3.5." in body
    assert "Other seeds: the interval is of one seed." in body
    assert "| data | street&#95;data |" in body
    assert "short&#95;side 32" in body
    assert 'detdistill.load_detector("hf:me/street")' in body
    assert str(tmp_path) not in text
    for sign in ("<", "[x]", "*bold", "a|b", "two\nlines"):
        assert sign not in body
    rows = [line for line in body.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) == len(HOSTILE)
    assert all(row.count("|") == 4 for row in rows)
    assert rows[0] == "| 0 | car | 40.0 |"
    assert rows[2] == "| 2 | --- | not measured |"
    assert literal("a\u202eb`c`") == "a b&#96;c&#96;"


def test_what_nobody_measured_or_said_is_told(run: Path, tmp_path: Path) -> None:
    (run / "results.json").unlink()
    detdistill.push(run, "hf:me/street", to_folder=tmp_path / "hub")
    text = (tmp_path / "hub/README.md").read_text()
    assert 'license: "unknown"' in text
    for said in ("licence | not stated", "was not judged", "Nothing was measured.", "no interval was computed"):
        assert said in text


@pytest.mark.parametrize("there", [None, ["README.md", "student.json", ".gitattributes"]])
def test_the_students_files_alone_are_uploaded(run: Path, online: Any, there: list[str] | None) -> None:
    hub = online(Hub(there))
    files.write_text(run / "secret.txt", "nobody's business")
    outcome = detdistill.push(run, "hf:me/street")
    assert outcome.place == "https://huggingface.co/me/street"
    assert hub.taken.keys() == {"README.md", "student.json", "student.safetensors"}
    given = ["README.md", "student.json", "student.safetensors", "model.onnx"]
    assert hub.asked["upload_folder"]["allow_patterns"] == given
    assert hub.asked["upload_folder"]["delete_patterns"] == ["model.onnx"]  # it would be of the student before
    assert hub.asked["upload_folder"]["repo_id"] == hub.asked["create_repo"]["repo_id"] == "me/street"
    assert hub.asked["create_repo"]["private"] is True
    assert json.loads(hub.taken["student.json"])["class_names"] == list(HOSTILE)
    detdistill.push(run, "hf:me/street", public=True)
    assert hub.asked["create_repo"]["private"] is False


def test_an_exported_file_goes_along_with_its_figures(run: Path, tmp_path: Path, online: Any) -> None:
    model = proved(run, tmp_path / "small.onnx")
    outcome = detdistill.push(run, "hf:me/street", to_folder=tmp_path / "hub", onnx=model)
    assert outcome.sizes["model.onnx"] == model.stat().st_size
    assert (tmp_path / "hub/model.onnx").read_bytes() == model.read_bytes()
    text = (tmp_path / "hub/README.md").read_text()
    assert "`model.onnx` (opset 18, 8 bits, boxes suppressed inside) needs numpy, Pillow and onnxruntime" in text
    assert "on 40 validation images: all 7 boxes matched; largest difference of a box 0.002 px" in text
    assert "| PyTorch | 23.61 | 40.00 | 2048 bytes |" in text
    assert "| model.onnx | 23.50 | not measured | 1024 bytes |" in text
    assert detdistill.load_detector(f"hf:{tmp_path / 'hub'}").class_names == HOSTILE
    hub = online(Hub())
    detdistill.push(run, "hf:me/street", onnx=model)
    assert hub.taken.keys() == {"README.md", "student.json", "student.safetensors", "model.onnx"}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"ap_lost": 0.6}, r"must be at most 0\.5 points below PyTorch's, got 0\.60 below\. Leave --onnx out\.$"),
        (
            {"student_sha256": "0"},
            r"which holds another student\. Write detdistill export .*run --out .*small\.onnx f",
        ),
        ({"sha256": "0"}, r"which is another than small\.parity\.json tells of\. Write detdistill export"),
        ({"student_sha256": None}, r"without its figures in small\.parity\.json\. Write detdistill export"),
        (None, r"which is no \.onnx that is there\. Write detdistill export"),
    ],
)
def test_a_file_that_is_not_the_students_stays(
    run: Path, tmp_path: Path, changed: dict[str, object] | None, why: str
) -> None:
    model = proved(run, tmp_path / "small.onnx", **(changed or {}))
    if changed is None:
        model.unlink()
    with pytest.raises(ConfigError, match=why):
        detdistill.push(run, "hf:me/street", to_folder=tmp_path / "hub", onnx=model)
    assert not (tmp_path / "hub").exists()


def test_a_repository_of_other_files_is_left_alone(run: Path, online: Any) -> None:
    hub = online(Hub(["README.md", "config.json"]))
    with pytest.raises(ConfigError, match=r"must be new or hold a detector that push wrote.*Give another name\."):
        detdistill.push(run, "hf:me/street")
    assert not hub.asked.keys() & {"create_repo", "upload_folder"}


def test_what_the_hub_refuses_is_one_sentence(run: Path, online: Any) -> None:
    online(Hub(refuses=OSError("403 Forbidden.\nRequest ID: 7")))
    with pytest.raises(ConfigError, match=r"^hf:me/street must take the upload, got: 403 Forbidden\. Check the name, "):
        detdistill.push(run, "hf:me/street")


@pytest.mark.parametrize(
    "name", ["me/street", "hf:street", "hf:me/../x", "hf:me/a b", "hf:/tmp/x", "hf:me/x.", "hf:m/é"]
)
def test_a_name_that_is_none_is_refused(run: Path, name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be hf:OWNER/NAME.*Write for example hf:me/my-detector\."):
        detdistill.push(run, name, to_folder=tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_what_cannot_be_pushed_is_refused_and_nothing_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"
    with pytest.raises(ConfigError, match="Unset it, or add --to-folder FOLDER"):
        detdistill.push(run, "hf:me/street")
    with pytest.raises(ConfigError, match="Write for example --licence"):
        detdistill.push(run, "hf:me/street", to_folder=hub, licence="MIT: yes\n")
    with pytest.raises(ConfigError, match="must be the folder of a training"):
        detdistill.push(tmp_path / "nowhere", "hf:me/street", to_folder=hub)
    assert not hub.exists()
    files.write_text(hub / "notes.txt", "mine")
    with pytest.raises(ConfigError, match="must be new or empty"):
        detdistill.push(run, "hf:me/street", to_folder=hub)
    assert [path.name for path in hub.iterdir()] == ["notes.txt"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match=r"got none\. Log in by hf auth login"):
        detdistill.push(run, "hf:me/street")


def test_the_hubs_cache_is_asked_for_our_files_too(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detdistill.push(run, "hf:me/street", to_folder=tmp_path / "hub")
    asked: list[Any] = []

    def snapshot(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path / "hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert detdistill.load_detector("hf:me/street").class_names == HOSTILE
    assert asked[0][0] == "me/street"
    assert {"student.json", "*.safetensors"} <= {*asked[0][1]}
    assert not any(one.startswith("*.py") or one in ("*", "*.bin") for one in asked[0][1])
