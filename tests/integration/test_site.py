"""The documentation site: its pages, links and pictures, and that what stands on them can be typed and works."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from cyclopts import CoercionError, MissingArgumentError
from docs.tools.method_pages import RESULTS, Measured, beside, measured, verdict
from docs.tools.staging import ROOT, SECTIONS, navigation, sources, stage, title

import detdistill
from detdistill.cli import main
from detdistill.cli.app import build_app
from detdistill.methods.catalogue import METHODS, describe, parse_method
from detdistill.scenes import make_scenes
from films import film

PAGES = {path.relative_to(ROOT / "docs").as_posix(): path.read_text() for path in (ROOT / "docs").rglob("*.md")}
PAGES["README.md"] = (ROOT / "README.md").read_text()
# Pages whose commands and code are read and run by other tests.
ELSEWHERE = {
    "black_box.md": "tests/integration/test_black_box.py",
    "detr.md": "tests/integration/test_detr_runs.py",
    "own_detector.md": "tests/integration/test_documents.py",
    "teachers.md": "tests/integration/test_documents.py",
}
# Lines that are not run, by what they need.
NEEDS = {
    "the network": r"torchvision:",
    "another machine": r"torchrun|train\.processes",
    "an installation": r"^pip ",
}
# Queries are no cells of a map.
WITHOUT_PICTURE = {"queries"}
SHORT = ("train.batch_size=2", "train.threads=1", "train.device=cpu", "train.ema_decay=0")
SMALL = ("data.image.short_side=48", "data.image.long_side=80")
TINIER = {"fcos/resnet18": "fcos/tiny", "fcos/resnet50": "fcos/small"}
# What stands for the rest of a distillation, and what it stands for.
REST, MEANT = " ... ", " --teacher runs/teacher --student fcos/tiny --data my_data --method frs --out runs/{} "
# An exporter takes as long as there are operations.
FEW_OPERATIONS = ("student.strides=[16]", "student.head_depth=0")
TRIED = ("--methods", "hint", "--methods", "frs", "--strengths", "3", "--strengths", "1", "--budget", "5.5")
TRAINING = ("train", "distill", "prove", "doctor", "tune")


@dataclass(frozen=True)
class Block:
    """Code on a page, fenced or indented; `mark` is the comment before it."""

    page: str
    mark: str
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Its lines that are typed, continued ones as one, without what a shell passes over."""
        lines = [line.strip().removeprefix("$ ") for line in self.text.replace("\\\n", " ").splitlines()]
        return [line for line in lines if re.match(r"(detdistill|make|pip|python|docker|torchrun) ", line)]


def blocks() -> Iterator[Block]:
    """Every block of every page."""
    for page, text in PAGES.items():
        fenced = re.compile(r"(?:<!-- ([^>]*) -->\n)?^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
        for match in fenced.finditer(text):
            yield Block(page, match[1] or "", match[2], match[3])
        for match in re.finditer(
            r"(?:<!-- ([^>]*) -->\n)?\n((?:^    \S.*\n?)+)", fenced.sub("", text), flags=re.MULTILINE
        ):
            yield Block(page, match[1] or "", "", match[2])


BLOCKS = tuple(blocks())


def run_here(block: Block) -> bool:
    return not block.mark.startswith(("not run: ", "elsewhere: ")) and block.page not in ELSEWHERE


RUN = sorted({block.page for block in BLOCKS if block.commands and run_here(block)})


def test_a_block_that_is_not_run_says_why() -> None:
    for block in BLOCKS:
        known = not block.mark or re.match(r"(not run|elsewhere): \S", block.mark)
        assert known, f"{block.page}: <!-- {block.mark} -->"
        if block.language == "python":
            assert not run_here(block), f"{block.page}: no test runs this: {block.text[:60]}"
    for page, test in ELSEWHERE.items():
        assert page in (ROOT / test).read_text(), f"{test} does not read {page}"
    for test in {one for block in BLOCKS for one in re.findall(r"tests/\S+\.py", block.mark)}:
        assert (ROOT / test).is_file(), test
    assert "my_data.md" in RUN


def typed(command: str) -> list[str]:
    words = shlex.split(command, comments=True)
    return words[words.index("detdistill") + 1 :]


def inline(page: str) -> list[str]:
    """What a page's sentences tell to type, but for what may be left out, and what stands for the rest."""
    text = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    commands = [" ".join(one.split()) for one in re.findall(r"`((?:detdistill|make) [^`]+)`", text)]
    return [one for one in commands if not re.search(r"\.\.\.|\|| \[", one)]


@pytest.mark.parametrize("page", sorted(PAGES))
def test_commands_have_the_words_that_there_are(page: str) -> None:
    app, targets = build_app(), re.findall(r"^([a-z-]+):.* ##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    blocks = [command for block in BLOCKS if block.page == page for command in block.commands]
    for command in [*blocks, *inline(page)]:
        if command.startswith("make "):
            assert command.split()[1] in targets, command
        elif re.match(r"detdistill |torchrun .*-m detdistill ", command):
            # A sentence may name a command without all that it needs, and what stands for one of several words.
            with suppress(*() if command in blocks else (MissingArgumentError, CoercionError)):
                app.parse_args(typed(command.replace(REST, MEANT)), exit_on_error=False, print_error=False)


def test_methods_in_the_text_are_methods() -> None:
    texts = {text for page in PAGES.values() for text in re.findall(r'--method "([^"]+)"', page)}
    assert len(texts) > 5
    for text in texts:
        if not re.search(r"[A-Z]{3}|\.\.\.", text):
            parse_method(text)


def test_every_page_is_in_the_navigation_under_its_title() -> None:
    known = {name: title(text) for name, (_, text) in sources().items()}
    told = navigation(known)
    for name, heading in known.items():
        assert heading, f"{name} has no heading"
        assert told.count(f'"{name}"') == 1, name
    listed = [name for _, names in SECTIONS for name in names]
    assert len(listed) == len(set(listed))
    assert '"More"' not in told
    assert all(name in known or "*" in name for name in listed)


def test_every_method_has_a_page_of_all_that_is_known_of_it() -> None:
    known = sources()
    for name in METHODS:
        method, text = describe(name), known[f"methods/{name}.md"][1]
        assert method.formula in text
        assert set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)) == set(method.defaults)
        picture = ROOT / f"docs/methods/{name}.webp"
        assert (f"]({name}.webp)" in text) == picture.is_file()
        assert name in WITHOUT_PICTURE or picture.stat().st_size <= 60_000

    rows = [one for one in measured(RESULTS / "evidence/table.md") if one.row == "frs"]
    assert rows
    for one in rows:
        assert f"| {one.data} | `frs` | {one.cells['AP']} | {one.gain} | {one.spread} |" in known["methods/frs.md"][1]


def test_a_verdict_says_what_the_intervals_say() -> None:
    def row(data: str, gain: str, interval: str) -> Measured:
        return Measured(data, "x", {"against alone": gain, "95 % interval": interval})

    rows = [row("a", "+2.0", "+1.0 to +3.0"), row("b", "-2.0", "-3.0 to -1.0"), row("c", "+0.1", "-1.0 to +1.2")]
    expected = ["- **It gains** on a (+2.0).", "- **It loses** on b (-2.0).", "- **Its interval holds 0** on c (+0.1)."]
    assert verdict([*rows, row("d", "+9.0", "")]) == expected


def test_what_wraps_is_compared_with_what_it_wraps_and_its_control() -> None:
    gains = {"frs": "+2.0", "aid(frs, alpha=2)": "+2.5", "aid(frs, alpha=2, control=true)": "+2.6", "aid(ssim)": "+1.0"}
    rows = [Measured("a", name, {"against alone": gain}) for name, gain in gains.items()]
    rows.append(Measured("a", "aid(frs)", {"against alone": "+9.0", "each seed": "+9.0, +9.0"}))
    expected = "- `aid(frs, alpha=2)` on a: +0.5 AP against `frs`, -0.1 AP against its control."
    assert beside(rows[1:], rows) == [expected]


def test_links_lead_to_pages_and_headings(tmp_path: Path) -> None:
    slugs = pytest.importorskip("markdown.extensions.toc")
    stage(tmp_path)
    anchors = {}
    for file in (tmp_path / "pages").rglob("*.md"):
        text = re.sub(r"^```.*?^```$", "", file.read_text(), flags=re.DOTALL | re.MULTILINE)
        headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
        plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", one) for one in headings)
        anchors[file] = {slugs.slugify(one, "-") for one in plain}
    for file in anchors:
        text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", file.read_text(), flags=re.DOTALL | re.MULTILINE)
        for link, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
            if "://" in link:
                continue
            target = (file.parent / link).resolve() if link else file
            assert target.exists(), f"{file.name}: {link}"
            assert not anchor or anchor in anchors[target], f"{file.name}: {link}#{anchor}"


def test_the_reference_has_every_public_name_once() -> None:
    told = re.findall(r"^::: detdistill\.(\w+)$", sources()["api.md"][1], flags=re.MULTILINE)
    assert sorted(told) == sorted(set(detdistill.__all__) - {"__version__"})


@pytest.mark.slow
def test_the_site_builds_strictly_and_asks_the_network_for_nothing(tmp_path: Path) -> None:
    pytest.importorskip("zensical")
    names = stage(tmp_path)
    tool = Path(sys.executable).with_name("zensical")
    command = [tool, "build", "--strict", "--clean", "-f", tmp_path / "zensical.toml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    site = tmp_path / "site"
    for name in names:
        place = site / name.removesuffix("index.md") / "index.html" if name.endswith("index.md") else None
        page = (place or site / name.removesuffix(".md") / "index.html").read_text(encoding="utf-8")
        asked = re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="(https?:[^"]*)"', page)
        assert not asked, f"{name}: {asked}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pages speak of: data, photos, a teacher, a student alone, a distilled one."""
    folder = tmp_path_factory.mktemp("site")
    make_scenes(folder / "my_data", train=6, val=4, seed=0)
    (folder / "photos").mkdir()
    shutil.copy(min((folder / "my_data/images").rglob("*.png")), folder / "photos/street.png")
    runs, data = folder / "runs", folder / "my_data"
    short = ("--steps", "2", *SHORT, *SMALL)
    assert main(["train", "--detector", "fcos/small", "--data", str(data), "--out", str(runs / "teacher"), *short]) == 0
    assert main(["train", "--detector", "fcos/tiny", "--data", str(data), "--out", str(runs / "alone"), *short]) == 0
    told = ["--teacher", str(runs / "teacher"), "--student", "fcos/tiny", "--method", "frs", "--data", str(data)]
    assert main(["distill", *told, "--alone", str(runs / "alone"), "--out", str(runs / "distilled"), *short]) == 0
    return folder


def shortened(words: list[str]) -> list[str]:
    """A command with as little training as there can be, of few small images and a small student."""
    if words[:3] == ["data", "make", "scenes"]:
        return [{"40": "6", "10": "3"}.get(word, word) for word in words]
    if words[0] not in TRAINING or (words[1:2] and words[1].endswith(".yaml")):
        return words
    words = [word for word in words if word != "student.pretrained=true"]
    for option, least in (("--steps", "2"), ("--seeds", "2")):
        if option in words:
            words[words.index(option) + 1] = least
    words = [TINIER.get(word, re.sub(r"(?<=_side=)\d+", lambda side: str(int(side[0]) // 2), word)) for word in words]
    words += TRIED if words[0] == "tune" else []
    # A twin has the size that the page gave it.
    words += [] if {"--runs", "--alone"} & {*words} or any("image" in word for word in words) else SMALL
    steps = () if "--steps" in words or "--runs" in words else ("--steps", "2")
    return [*words, *steps, *(() if "--runs" in words else SHORT)]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_a_pages_commands_work_one_after_the_other(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], page: str
) -> None:
    lines = [line for block in BLOCKS if block.page == page and run_here(block) for line in block.commands]
    lines = [line for line in lines if not any(re.search(needed, line) for needed in NEEDS.values())]
    made = {words[words.index("--out") + 1] for words in map(typed, lines) if "--out" in words}
    (tmp_path / "runs").mkdir()
    for name in ("my_data", "photos", "data", "six_classes", "scenes"):
        if name not in made:
            (tmp_path / name).symlink_to(home / (name if name == "photos" else "my_data"))
    for name in ("teacher", "alone", "distilled", "five", "student"):
        if f"runs/{name}" not in made:
            run = name if (home / "runs" / name).is_dir() else "alone"
            shutil.copytree(home / "runs" / run, tmp_path / "runs" / name)
    if page == "export.md":
        shutil.rmtree(distilled := tmp_path / "runs/distilled")
        short = ("--data", str(home / "my_data"), "--steps", "2", *SHORT, *SMALL, *FEW_OPERATIONS)
        assert main(["train", "--detector", "fcos/tiny", "--out", str(distilled), *short]) == 0
    film(tmp_path / "clip.mp4")
    for index in range(2):
        for name in ("alone", "distilled"):
            shutil.copytree(home / "runs" / name, tmp_path / f"{name}_{index}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    for index, line in enumerate(lines):
        assert line.startswith("detdistill "), f"{page}: no test runs this: {line}"
        given = typed(line.replace(REST, MEANT.format(index)))
        assert main(shortened(given)) == 0, f"{line}\n{capsys.readouterr().err}"
