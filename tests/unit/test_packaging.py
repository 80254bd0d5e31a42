"""What ships beside the code: completion for shells, the citation, the container."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from detdistill.cli import main

ROOT = Path(__file__).resolve().parents[2]
COMPLETE = 'source {script}; COMP_WORDS=({words}); COMP_CWORD={last}; _detdistill; echo "${{COMPREPLY[*]}}"'


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"), [("detdistill dis", "distill"), ("detdistill distill --equ", "--equal-time")]
)
def test_a_shell_completes_commands_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, expected: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["--install-completion", "--shell", "bash"]) == 0
    script = tmp_path / ".local/share/bash-completion/completions/detdistill"
    assert capsys.readouterr().out == f"completion is in {script}, which new shells read\n"
    line = COMPLETE.format(script=script, words=words, last=len(words.split()) - 1)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected]


def test_a_shell_that_cannot_be_told_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ZSH_VERSION", "BASH_VERSION", "FISH_VERSION", "SHELL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["--install-completion"]) == 2
    said = capsys.readouterr().err
    assert said.endswith("Write --install-completion --shell bash.\n")
    assert not list(tmp_path.iterdir())


def test_the_citation_is_the_projects_and_names_the_four_papers() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {key: cited[key] for key in ("cff-version", "type", "title", "version", "license", "abstract")} == {
        "cff-version": "1.2.0",
        "type": "software",
        "title": project["name"],
        "version": project["version"],
        "license": project["license"],
        "abstract": project["description"],
    }
    assert cited["authors"] == project["authors"]
    papers = " ".join(path.read_text(encoding="utf-8") for path in ROOT.glob("configs/papers/*/paper.yaml"))
    papers = " ".join(papers.split())
    assert len(cited["references"]) == 4
    for one in cited["references"]:
        assert f"{one['title']}, " in papers
        assert f"{one['year']} figures:" in papers
        first = one["authors"][0]
        assert " ".join(filter(None, (first.get("name-particle"), first["family-names"]))) in papers


def test_the_container_runs_what_make_knows() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    targets = re.findall(r"^RUN make (\S+)$", recipe, flags=re.MULTILINE) + re.findall(r'"make", "(\S+)"', recipe)
    assert targets == [".venv/.runtime", "demo"]
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", makefile, flags=re.MULTILINE)
    left_out = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert not {"src", "configs", "requirements", "Makefile", "pyproject.toml", "README.md", "LICENSE"} & set(left_out)
