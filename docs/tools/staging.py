"""Puts the pages of the site and zensical's settings into one folder, ready to be built.

    python -m docs.tools.staging build/docs

The pages are the repository's own: those of `docs/` at the top, the others (benchmarks, examples, CONTRIBUTING) under
their own paths, with the figures' files beside them. Links lead in the site where they lead in the repository.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from docs.tools.method_pages import pages

import detdistill

ROOT = Path(__file__).resolve().parents[2]
EACH_METHOD = "methods/*.md"
# In this order; a page that is not listed stands under "More".
SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Start", ("index.md", "my_data.md", "install.md", "coming_from.md")),
    ("Methods", ("methods/index.md", EACH_METHOD, "training.md", "boxes.md", "teachers.md", "pairs.md")),
    ("Detectors", ("detectors.md", "own_detector.md", "detr.md", "black_box.md", "sizes.md")),
    ("Data", ("data.md",)),
    ("Runs", ("runs.md", "starting.md", "launching.md", "loggers.md", "config.md")),
    ("Did it help?", ("evaluation.md", "proof.md", "report.md", "papers.md", "benchmarks.md")),
    ("Ship it", ("export.md", "hub.md")),
    ("Reference", ("settings.md", "api.md", "promises.md")),
    ("Inside", ("architecture.md", "contributing.md", "plugin.md", "changelog.md")),
)
# Of the repository's pages outside docs/, their names in the site.
OTHERS = {
    "benchmarks.md": ROOT / "benchmarks/README.md",
    "changelog.md": ROOT / "CHANGELOG.md",
    "contributing.md": ROOT / "CONTRIBUTING.md",
    "plugin.md": ROOT / "examples/plugin/README.md",
}
LINK = re.compile(r"(?<=\]\()([^)#\s]+)(#[^)]*)?(?=\))")
FENCED = re.compile(r"(```.*?```)", flags=re.DOTALL)


def sources() -> dict[str, tuple[Path, str]]:
    """Every page by its name in the site: where its links count from, and its text."""
    found = {path.relative_to(ROOT / "docs").as_posix(): path for path in sorted((ROOT / "docs").rglob("*.md"))}
    written = {name: (path, path.read_text(encoding="utf-8")) for name, path in (found | OTHERS).items()}
    path, text = written["api.md"]
    written["api.md"] = path, text + _names_left_out(text)
    return written | {name: (ROOT / "docs" / name, text) for name, text in pages().items()}


def _names_left_out(text: str) -> str:
    """The end of the reference: public names that it has no place for yet."""
    told = set(re.findall(r"^::: detdistill\.(\w+)$", text, flags=re.MULTILINE))
    left = sorted(set(detdistill.__all__) - told - {"__version__"})
    return "".join(["\n## More\n\n", *(f"::: detdistill.{name}\n" for name in left)]) if left else ""


def stage(folder: Path) -> list[str]:
    """Makes `folder` anew and returns the names of its pages."""
    shutil.rmtree(folder, ignore_errors=True)
    known = sources()
    homes = {path: name for name, (path, _) in known.items()}
    files = {"style.css": ROOT / "docs/tools/style.css"}
    for name, (path, text) in known.items():
        target = folder / "pages" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_within_site(text, path, name, homes, files), encoding="utf-8")
    for name, path in files.items():
        target = folder / "pages" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    settings = (ROOT / "docs/tools/zensical.toml").read_text(encoding="utf-8")
    for word, value in (
        ("SOURCES", (ROOT / "src").as_posix()),
        ("EXTENSION", (ROOT / "docs/tools/examples.py").as_posix()),
        ("NAVIGATION", navigation({name: title(text) for name, (_, text) in known.items()})),
    ):
        settings = settings.replace(word, value)
    (folder / "zensical.toml").write_text(settings, encoding="utf-8")
    return list(known)


def title(text: str) -> str:
    """A page's first heading, as plain text."""
    return re.sub(r"[`*]", "", text.partition("# ")[2].partition("\n")[0])


def navigation(pages: Mapping[str, str]) -> str:
    """The value of `nav` for pages with these titles."""
    left, sections = dict(pages), []
    for heading, names in (*SECTIONS, ("More", ("*.md",))):
        entries = []
        for name in names:
            there = {page: left.pop(page) for page in list(left) if fnmatchcase(page, name)}
            some = ", ".join(f"{{ {json.dumps(told)} = {json.dumps(page)} }}" for page, told in there.items())
            entries += [f'{{ "Each method" = [{some}] }}' if name == EACH_METHOD else some] if there else []
        if entries:
            sections.append(f"  {{ {json.dumps(heading)} = [{', '.join(entries)}] }},\n")
    return f"[\n{''.join(sections)}]"


def _within_site(text: str, source: Path, name: str, homes: dict[Path, str], files: dict[str, Path]) -> str:
    """The page's text with every link leading where its target lies in the site; `files` gets what it links beside."""

    def led(match: re.Match[str]) -> str:
        link, anchor = match[1], match[2] or ""
        if "://" in link or link.startswith("mailto:"):
            return match[0]
        target = Path(os.path.normpath(source.parent / link))
        if target.is_dir():  # in the repository that shows what is in it
            target = next((one for one in (target / "README.md", target / "table.md") if one.is_file()), target)
        place = homes.get(target)
        if place is None and target.is_file():
            base = ROOT / "docs" if target.is_relative_to(ROOT / "docs") else ROOT
            place = target.relative_to(base).as_posix()
            files[place] = target
        return match[0] if place is None else f"{'../' * name.count('/')}{place}{anchor}"

    parts = FENCED.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(led, part) for part in parts)


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
