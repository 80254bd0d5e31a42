"""Paths in config files: right from every working directory, wherever run and data are moved together."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from detdistill.detectors.catalogue import FAMILIES
from detdistill.errors import ConfigError
from detdistill.jobs.config import read_run_config
from detdistill.jobs.paths import written_from
from detdistill.jobs.settings import RunConfig
from detdistill.settings import PLACE
from detdistill.settings.strict_yaml import dump_yaml
from detdistill.settings.trees import hints_of
from run_files import distil, refusal, run_file

# A value for every setting that may hold a path, as somebody in the project's folder gives it.
GIVEN = {
    "data.folder": "sets/one",
    "data.train": "sets/one/train.json",
    "data.val": "sets/../sets/val.json",
    "data.cache_folder": "decoded",
    "data.unlabelled.source": "sets/more",
    "teacher.source": "runs/teacher",
    "teacher.then": "runs/larger",
    "teacher.cache_folder": "found",
    "student.pretrained": "weights/body.pth",
    "init": "runs/start",
    "twins.folder": "twins",
    "alone": "runs/alone",
    "out": "runs/new",
}


def settings() -> list[str]:
    given = [f"{key}=[{value}]" if key == "teacher.then" else f"{key}={value}" for key, value in GIVEN.items()]
    return ["data.cache=disk", *given]


def read(file: Path | None, *more: str) -> RunConfig:
    return (
        distil(file, *more, student__detector="fcos/tiny", method__name="frs") if file is None else distil(file, *more)
    )


def write(config: RunConfig) -> Path:
    config.out.mkdir(parents=True, exist_ok=True)
    file = config.out / "config.yaml"
    file.write_text(dump_yaml(written_from(config.as_dict(), config.out)), encoding="utf-8")
    return file


def places(config: RunConfig) -> dict[str, Any]:
    return {
        "data.folder": config.data.folder,
        "data.train": config.data.train,
        "data.val": config.data.val,
        "data.cache_folder": config.data.cache_folder,
        "data.unlabelled.source": config.data.unlabelled and config.data.unlabelled.source,
        "teacher.source": config.teacher and config.teacher.source,
        "teacher.then": next(iter(config.teacher.then), None) if config.teacher else None,
        "teacher.cache_folder": config.teacher and config.teacher.cache_folder,
        "student.pretrained": config.student.settings.pretrained,
        "init": config.init,
        "twins.folder": config.twins.folder,
        "alone": config.alone,
        "out": config.out,
    }


def _paths_of(kind: Any, at: str) -> set[str]:
    found = set()
    for one in fields(kind):
        hint, name = hints_of(kind)[one.name], f"{at}{one.name}"
        members = [hint, *getattr(hint, "__args__", ())]
        if PLACE in one.metadata or Path in members or any(Path in getattr(m, "__args__", ()) for m in members):
            found.add(name)
        for member in members:
            if isinstance(member, type) and is_dataclass(member):
                found |= _paths_of(member, f"{name}.")
    return found


def test_every_setting_that_holds_a_path_is_known_here() -> None:
    families = [(one.settings, "student.") for one in FAMILIES.values()]
    found = {name for kind, at in ((RunConfig, ""), *families) for name in _paths_of(kind, at)}
    assert found == set(GIVEN)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_written_file_means_the_same_from_everywhere(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read(None, *settings())
    file = write(config)
    # Seen from where it was written, all is as it was given, but for the detour.
    assert read(file) == replace(config, data=replace(config.data, val=Path("sets/val.json")))
    (project / "sub").mkdir()
    for elsewhere in (project / "sub", Path("/")):
        monkeypatch.chdir(elsewhere)
        seen = places(read(project / "runs/new/config.yaml"))
        wanted = {key: (project / value).resolve() for key, value in GIVEN.items()}
        assert {key: Path(value).resolve() for key, value in seen.items()} == wanted
    monkeypatch.chdir(project / "runs")
    assert read(Path("new/config.yaml")).out == Path("new")


def test_a_written_file_moves_with_the_tree_that_holds_run_and_data(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(read(None, *settings()))
    monkeypatch.chdir(tmp_path)
    moved = project.rename(tmp_path / "moved")
    found = places(read(moved / "runs/new/config.yaml"))
    assert {key: str(value) for key, value in found.items()} == {
        key: f"moved/{value.replace('sets/../', '')}" for key, value in GIVEN.items()
    }


def test_a_run_that_is_moved_alone_is_where_it_is(project: Path, tmp_path: Path) -> None:
    """Going on with it must not begin a new run in its old place; what was given as an absolute path stays so."""
    outside = tmp_path / "outside"
    write(
        read(
            None,
            f"data.folder={outside}",
            "teacher.source=t",
            f"out={project / 'runs/new'}",
            "twins.folder=runs/new/tw",
        )
    )
    (project / "runs/new").rename(project / "archived")
    found = places(read(Path("archived/config.yaml")))
    assert (found["out"], found["twins.folder"], found["data.folder"]) == (
        Path("archived"),
        Path("archived/tw"),
        outside,
    )


def test_a_run_folder_behind_a_link_is_read_from_both_sides(project: Path, tmp_path: Path) -> None:
    (tmp_path / "disk/deep/runs").mkdir(parents=True)
    (project / "runs").symlink_to(tmp_path / "disk/deep/runs")
    write(read(None, *settings()))
    for file in (project / "runs/new/config.yaml", tmp_path / "disk/deep/runs/new/config.yaml"):
        found = places(read(file))
        assert found["data.folder"] == Path("sets/one")
        assert Path(found["out"]).resolve() == tmp_path / "disk/deep/runs/new"
        assert Path(str(found["teacher.source"])).resolve() == tmp_path / "disk/deep/runs/teacher"


@pytest.mark.parametrize(
    ("source", "read_back"),
    [
        ("torchvision:fcos_resnet50_fpn", "torchvision:fcos_resnet50_fpn"),
        ("torchvision:fcos_resnet50_fpn=w/f.pth", "torchvision:fcos_resnet50_fpn=../w/f.pth"),
        ("torchvision:fcos_resnet50_fpn=~/f.pth", "torchvision:fcos_resnet50_fpn=~/f.pth"),
    ],
)
def test_torchvisions_names_are_no_paths_and_their_files_are(
    project: Path, monkeypatch: pytest.MonkeyPatch, source: str, read_back: str
) -> None:
    file = write(
        read(None, "data.folder=d", f"teacher.source={source}", "out=runs/new", "student.pretrained=true")
    ).resolve()
    (project / "sub").mkdir()
    monkeypatch.chdir(project / "sub")
    found = places(read(file))
    assert str(found["teacher.source"]).replace(f"{project}/", "../") == read_back
    assert found["student.pretrained"] is True


def test_a_file_by_hand_counts_from_the_working_directory_unless_it_says_otherwise(project: Path) -> None:
    (project / "configs").mkdir()
    text = "data: sets/one\nstudent: fcos/tiny\nout: runs/x\n"
    file = run_file(project / "configs", text)
    assert read_run_config(file, purpose="train").data.folder == Path("sets/one")
    file = run_file(project / "configs", f"paths_from: file\n{text}")
    config = read_run_config(file, ["data.val=v.json"], purpose="train", options={"out": "runs/y"})
    # What the command line says is counted from the working directory.
    assert (config.data.folder, config.data.val, config.out) == (
        Path("configs/sets/one"),
        Path("v.json"),
        Path("runs/y"),
    )
    file = run_file(project / "configs", f"paths_from: cwd\n{text}")
    assert read_run_config(file, purpose="train").out == Path("runs/x")


def test_another_word_is_refused(project: Path) -> None:
    file = run_file(project, "paths_from: here\ndata: d\nstudent: fcos/tiny\nout: x\n")
    with pytest.raises(ConfigError) as refused:
        read_run_config(file, purpose="train")
    assert str(refused.value) == f"{file}: paths_from must be cwd or file, got 'here'. Choose one of them."
    file = run_file(project, "data: d\nstudent: fcos/tiny\nteacher: t\nmethod: frs\nout: x\n")
    assert "paths_from must be a key of a run, got the unknown 'paths_from'" in refusal(file, "paths_from=file")
