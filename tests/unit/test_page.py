"""The page of a run: what stands on it, what does not, and what it is safe from."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files as resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import detdistill
from detdistill.cli import main
from detdistill.data.annotations import Annotations
from detdistill.data.dataset import DetectionDataset
from detdistill.data.loader import evaluation_loader
from detdistill.data.transforms import ImageSettings
from detdistill.distillation.looks import PULL, Look, Weighed
from detdistill.errors import ConfigError
from detdistill.files import read_json, write_json, write_text
from detdistill.jobs import page as jobs
from detdistill.jobs.found import Found
from detdistill.jobs.given_runs import compare_job
from detdistill.jobs.looks import looks_on
from detdistill.jobs.page import report_job, write_page
from detdistill.report.page.charts import Line, Mark, curves, ends, strip
from detdistill.report.page.content import Page, Section
from detdistill.report.page.gather import gather
from detdistill.report.page.pictures import Shown, choose, pictures
from detdistill.report.page.render import render
from page_by_hand import HOSTILE, finished, hostile_data, made_up


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Annotations]:
    folder = tmp_path_factory.mktemp("pages") / "data"
    return folder, hostile_data(folder)


@pytest.fixture(scope="module")
def run(data: tuple[Path, Annotations], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Found], str]:
    """A distillation's folder, what its detectors found, and its page."""
    folder = tmp_path_factory.mktemp("run") / "distilled"
    looks = finished(folder, *data)
    write_page(folder, truth=data[1], looks=looks)
    return folder, looks, (folder / "report.html").read_text(encoding="utf-8")


class Outline(HTMLParser):
    """The tags of a page, its headings, and the rows of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.headings: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2" and data.strip():
            self.headings.append(data.strip())

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass


def test_the_verdict_stands_first_and_every_part_behind_it(run: tuple[Path, dict[str, Found], str]) -> None:
    text = run[2]
    assert re.search(r'class="sentence">(Distillation gains|No measurable effect)', text)
    order = ["Figures", "Learning curves", "Images fixed and broken", "What the method looked at", "Strength over time"]
    order += ["Cost and export", "Configuration and provenance"]
    assert Outline(text).headings == order
    assert text.index('class="sentence"') < text.index("COCO&#39;s figures")
    for told in ("over the same steps", "over the same time", "There is one seed", "AP by class", "AP50 lost to each"):
        assert told in text
    results = read_json(run[0] / "results.json")
    for model in ("teacher", "alone", "alone_equal_time", "distilled"):
        assert f"<td>{results[model]['AP']:.1f}</td>" in text


def test_names_of_users_are_text_and_nothing_else(run: tuple[Path, dict[str, Found], str]) -> None:
    text = run[2]
    assert HOSTILE not in text
    assert "&lt;script&gt;alert(1)" in text
    outline = Outline(text)
    assert [tag for tag, _ in outline.tags].count("script") == 1
    assert not [1 for tag, _ in outline.tags if tag == "img"]
    assert not [
        name for _, attributes in outline.tags for name in attributes if name.startswith("on") or name == "style"
    ]
    assert "onerror=alert(2)" in text.replace("&#34;", '"')  # as a name


def test_nothing_is_fetched_and_nothing_else_may_run(run: tuple[Path, dict[str, Found], str]) -> None:
    text = run[2]
    addresses = [
        value or ""
        for _, attributes in Outline(text).tags
        for name, value in attributes.items()
        if name in ("href", "src", "action", "srcset")
    ]
    assert {one.partition(":")[0] if ":" in one else one[:1] for one in addresses} <= {"data", "#"}
    assert "url(" not in text
    assert "@import" not in text
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy[1]


def test_tables_are_tables(run: tuple[Path, dict[str, Found], str]) -> None:
    text = run[2]
    assert text.count("<table") == text.count("<caption>") == text.count("</table>") > 5
    outline = Outline(text)
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in outline.tags if tag == "th")
    labelled = [attributes for tag, attributes in outline.tags if tag == "svg"]
    assert all("aria-label" in one or one.get("aria-hidden") == "true" for one in labelled)


def test_the_same_run_gives_the_same_bytes(
    run: tuple[Path, dict[str, Found], str], data: tuple[Path, Annotations]
) -> None:
    write_page(run[0], truth=data[1], looks=run[1])
    assert (run[0] / "report.html").read_text(encoding="utf-8") == run[2]


def test_what_a_run_lacks_is_not_there(data: tuple[Path, Annotations], tmp_path: Path) -> None:
    folder = tmp_path / "alone"
    config = detdistill.run_config("train.device=cpu", purpose="train", student="fcos/tiny", data=data[0], out=folder)
    write_text(folder / "config.yaml", config.yaml())
    outcome = report_job(folder, images=0)
    text = outcome.out.read_text()
    assert Outline(text).headings == ["Configuration and provenance"]
    assert outcome.sentence.startswith("Nothing is measured yet")
    measured = dict.fromkeys(("AP50", "AP75", "APs", "APm", "APl")) | {"AP": 12.34, "per_class": {}}
    write_json(folder / "results.json", {"student": measured, "steps": 5, "seconds": 1.0})
    outcome = report_job(folder, images=0)
    assert outcome.sentence == "The student has 12.3 AP on the validation images."
    assert Outline(outcome.out.read_text()).headings == ["Figures", "Cost and export", "Configuration and provenance"]
    assert "No teacher is compared here" in outcome.out.read_text()


def test_a_distillation_without_twin_says_how_to_get_one(data: tuple[Path, Annotations], tmp_path: Path) -> None:
    looks = finished(tmp_path / "run", *data, strength=False)
    results = read_json(tmp_path / "run" / "results.json")
    kept = {key: value for key, value in results.items() if not key.startswith("alone") and key != "error_types"}
    write_json(tmp_path / "run" / "results.json", kept)
    write_page(tmp_path / "run", truth=data[1], looks={"distilled": looks["distilled"]})
    text = (tmp_path / "run" / "report.html").read_text()
    assert "pass its folder as --alone" in text
    assert "Strength over time" not in text
    assert "--looked-at draws it here" in text


def test_a_study_has_intervals_over_its_seeds(data: tuple[Path, Annotations], tmp_path: Path) -> None:
    folder, truth = data
    places: dict[str, list[Path]] = {"alone": [], "distilled": []}
    for seed in range(2):
        for name, shift in (("alone", 8.0 + seed), ("distilled", 2.0)):
            found = made_up(truth, shift)
            rows = [
                {
                    "image_id": one.image_id,
                    "category_id": int(truth.category_ids[label]),
                    "bbox": [*box[:2], box[2] - box[0], box[3] - box[1]],
                    "score": score,
                }
                for one in found
                for box, score, label in zip(one.boxes.tolist(), one.scores.tolist(), one.labels.tolist(), strict=True)
            ]
            places[name].append(tmp_path / f"{name}_{seed}.json")
            places[name][-1].write_text(json.dumps(rows))
    compare_job(places["distilled"], places["alone"], out=tmp_path / "study", data=folder)
    text = (tmp_path / "study" / "report.html").read_text()
    verdict = read_json(tmp_path / "study" / "verdict.json")
    assert verdict["sentence"][1:] in text
    assert "Means over 2 seeds" in text
    assert "— seed 1" in text
    assert 'class="picture"' in text
    found = gather(tmp_path / "study")
    assert found.seeds == (0, 1)
    assert [one.ap for one in found.figures["alone"]] == [
        verdict["students"][str(seed)]["alone"]["AP"] for seed in (0, 1)
    ]


def test_export_parity_is_told_and_another_json_is_not(run: tuple[Path, dict[str, Found], str]) -> None:
    side = {"AP": 30.0, "AP50": 50.0, "seconds_per_image": 0.004, "bytes": 123456}
    told = {
        "file": "model.onnx",
        "pytorch": side,
        "exported": {**side, "AP": 29.99},
        "agreement": {"matched": 7, "box": 0.01},
    }
    (run[0] / "model.parity.json").write_text(json.dumps(told))
    (run[0] / "odd.parity.json").write_text("[]")
    assert [*gather(run[0]).parity] == ["model.parity.json"]
    outcome = report_job(run[0], images=0, out=run[0] / "other.html")
    assert "<td>29.99</td>" in outcome.out.read_text()


def test_images_stop_where_the_file_would_grow_too_large(data: tuple[Path, Annotations]) -> None:
    truth = data[1]
    shown = Shown(truth, {name: made_up(truth, shift) for name, shift in (("alone", 9.0), ("distilled", 1.0))})
    picks = choose(shown, alone="alone", distilled="distilled", images=4, score=0.3)
    assert 1 <= len(picks) <= 4
    assert picks[0].reason == "fixed most"
    whole = pictures(shown, picks, score=0.3)
    room = len(whole.pictures[0].uri) + 10
    less = pictures(shown, picks, score=0.3, most_bytes=room)
    assert len(whole.pictures) == len(picks)
    assert len(less.pictures) == 1
    assert f"{len(picks) - 1} that were chosen are left out, as the file would grow too large" in less.note


def test_boxes_say_what_they_are_and_which_are_drawn_first(data: tuple[Path, Annotations]) -> None:
    shown = Shown(data[1], {"distilled": made_up(data[1], 1.0)})
    score = shown.working_score("distilled")
    assert 0.2 < score <= 0.55  # the boxes of nothing have 0.2, the last objects 0.55
    picks = choose(shown, alone="distilled", distilled="distilled", images=6, score=score)
    for one in pictures(shown, picks, score=score).pictures:
        panel = one.panels[0]
        assert [box.state for box in panel.boxes] == ["hit"] * one.objects + ["wrong"]
        assert [box.shown for box in panel.boxes] == [True] * one.objects + [one.objects == 0]
        assert (panel.found, panel.wrong) == (one.objects, int(one.objects == 0))


def test_a_failure_is_said_and_loses_nothing(
    run: tuple[Path, dict[str, Found], str], data: tuple[Path, Annotations], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Heard:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def say(self, line: str) -> None:
            self.lines.append(line)

        def start(self, *_: object, **__: object) -> None: ...
        def advance(self, *_: object) -> None: ...
        def finish(self) -> None: ...

    heard, before = Heard(), (run[0] / "results.json").read_bytes()
    broken = replace(data[1], images_dir=Path("nowhere"))
    write_page(run[0], truth=broken, looks=run[1], progress=heard)
    monkeypatch.setattr(jobs, "render", lambda page: {}["of another kind"])
    write_page(run[0], truth=data[1], looks=run[1], progress=heard)
    assert len(heard.lines) == 2
    assert all(line.startswith("report.html is not written: ") for line in heard.lines)
    assert (run[0] / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{tmp}"], "must be the folder of a training, a distillation, a demo or a proof"),
        (["{run}", "--images", "-1"], "--images must be 0 to 200 images, got -1. Give 20."),
        (["{run}", "--out", "{tmp}/page.pdf"], "--out must be a file name that ends in .html"),
        (["{run}", "--out", "{tmp}/theirs.html"], "--out must be a new file, or one that this command wrote"),
    ],
)
def test_what_cannot_be_shown_is_said(
    words: list[str],
    said: str,
    run: tuple[Path, dict[str, Found], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "theirs.html").write_text("<p>a page of somebody</p>")
    assert main(["report", *(word.format(tmp=tmp_path, run=run[0]) for word in words)]) == 2
    assert said in capsys.readouterr().err
    assert (tmp_path / "theirs.html").read_text() == "<p>a page of somebody</p>"


def test_looking_needs_a_distillation(data: tuple[Path, Annotations], tmp_path: Path) -> None:
    folder = tmp_path / "alone"
    config = detdistill.run_config("train.device=cpu", purpose="train", student="fcos/tiny", data=data[0], out=folder)
    write_text(folder / "config.yaml", config.yaml())
    with pytest.raises(ConfigError, match=r"--looked-at must come with a distillation, got .* Leave it out"):
        report_job(folder, images=0, looked_at=True)


def test_masks_lie_over_the_image_alone_and_weights_stand_beside(data: tuple[Path, Annotations]) -> None:
    images = data[1].of(np.array([1]))
    batch = next(iter(evaluation_loader(DetectionDataset(images, image=ImageSettings(32, 48, 32)), batch_size=1)))
    assert batch.sizes == ((32, 48),)
    mask = torch.arange(32.0).reshape(1, 4, 8)  # a grid for 64 pixels across, of which the image has 48
    maps = [Look("frs.features", "richness", 8, mask), Look("frs.features", PULL, 16, torch.ones(1, 2, 4))]
    weights = [Weighed("frs.features", (8, 16, None), torch.tensor([[0.25, 1.0, 0.5]]))]
    shown = looks_on(images, 0, batch, maps, weights)
    richness, pull = shown.maps
    assert [one.most for one in (richness.levels[0], pull.levels[0])] == [29.0, 1.0]
    assert richness.levels[0].across == (96.0, 64.0)  # of the stored image: twice as large
    with Image.open(io.BytesIO(base64.b64decode(richness.levels[0].uri.partition(",")[2]))) as picture:
        assert picture.size == (6, 4)
        assert picture.getpixel((0, 0))[3] == 0
        assert picture.getpixel((5, 3))[3] == 235
    text = render(Page("a", "measured", "b", sections=(Section("looked-at", "Looked at", "Looked at", (shown,)),)))
    for told in ('<th scope="row">frs.features</th>', "<td>0.25</td>", "no level", PULL, "stride 16, at most 1"):
        assert told in text


def test_drawings_are_within_their_frame_and_escape() -> None:
    low, high = ends([3.0, -4.0, None], with_zero=True)
    assert low < -4 < 3 < high
    assert ends([], with_zero=True) == (0.0, 0.5)
    drawn = strip([Mark("alone", 99.0, 1.0, 2.0)], low=0, high=3, zero=True, told="<b>")
    assert 'cx="212.0"' in drawn
    assert "&lt;b&gt;" in drawn
    steps = np.arange(1.0, 101.0)
    panel = curves("<i>", [Line("distilled", "a&b", steps, 1e3 / steps**3)])
    assert "&lt;i&gt; (log)" in panel
    assert "a&amp;b" in panel
    places = re.findall(r"(?<=[ML])([\d.-]+) ([\d.-]+)", "".join(re.findall(r' d="([^"]*)"', panel)))
    assert all(0 <= float(x) <= 360 and 0 <= float(y) <= 214 for x, y in places)
    curves("one point", [Line("alone", "alone", np.array([5.0]), np.array([0.0]))])


def test_style_script_and_template_come_with_the_package() -> None:
    names = {one.name for one in resources("detdistill.report.page").iterdir()}
    assert {"page.html.j2", "page.css", "page.js"} <= names
