"""Whether a wheel is whole and works where nothing but it and what it asks for is installed.

python benchmarks/check_dist.py WHEEL               (by the Python that it is installed for: `make check-dist`)
python benchmarks/check_dist.py WHEEL OTHER_PYTHON  (the same with the extra `export`, whose files the other, which has
                                                     numpy, Pillow and onnxruntime alone, runs)
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from importlib import metadata, resources
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What only extras bring.
EXTRAS = ("transformers", "onnx", "onnxruntime", "openvino", "executorch", "mlflow", "wandb", "tensorboard", "optuna")
SCENES = ("data", "make", "scenes", "--out", "scenes", "--train", "4", "--val", "2")
TRAIN = ("train", "--detector", "fcos/tiny", "--data", "scenes", "--out", "run", "--steps", "2", "train.batch_size=2")
COMMANDS = (
    ("--help",),
    ("methods",),
    ("methods", "frs"),
    ("settings", "early stop"),
    ("--install-completion", "--shell", "bash"),
    SCENES,
    TRAIN,
    ("evaluate", "run", "--data", "scenes"),
    ("report", "run"),
    ("reproduce", "aid", "--scale", "full", "--plan", "--data", "nowhere"),
)
EXPORTING = (SCENES, (*TRAIN, "student.score_threshold=0"), ("export", "run", "--out", "model.onnx", "--nms", "inside"))


def expected() -> set[str]:
    """Every file that the wheel must hold."""
    source, rows = ROOT / "src", ROOT / "configs/papers"
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    files |= {f"detdistill/papers/rows/{path.relative_to(rows).as_posix()}" for path in rows.rglob("*.yaml")}
    return {name for name in files if "__pycache__" not in name and ".egg-info" not in name}


def main(wheel: Path, other: Path | None) -> None:
    """Ends with an error where anything is missing."""
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    missing = sorted(expected() - held)
    assert not missing, f"not in {wheel.name}: {missing}"
    assert "detdistill/py.typed" in held
    assert not Path(str(resources.files("detdistill"))).is_relative_to(ROOT / "src"), "this is not the wheel's package"
    with tempfile.TemporaryDirectory() as folder:
        if other is None:
            there = [name for name in EXTRAS if find_spec(name)]
            assert not there, f"these are extras and not to be here: {there}"
            run(COMMANDS, folder)
            assert Path(folder, ".local/share/bash-completion/completions/detdistill").is_file()
            packages = len(list(metadata.distributions()))
            print(f"{wheel.name}: {len(held)} files, {packages} packages installed, {len(COMMANDS)} commands run")
        else:
            run(EXPORTING, folder)
            print(f"{wheel.name}: exported, and {elsewhere(other, Path(folder))}")


def run(commands: Iterable[Sequence[str]], folder: str) -> None:
    """Runs commands one after the other in a folder; none may fail, unless for want of data."""
    command = Path(sysconfig.get_path("scripts")) / "detdistill"
    environment = {"HOME": folder, "PATH": "/usr/bin:/bin", "OMP_WAIT_POLICY": "PASSIVE"}
    for words in commands:
        done = subprocess.run(
            [command, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        said = done.stdout + done.stderr
        asked_for_data = words[0] == "reproduce" and done.returncode == 2
        assert done.returncode == 0 or asked_for_data, f"{' '.join(words)}: {said}"
        assert "Traceback" not in said, said


def elsewhere(python: Path, folder: Path) -> str:
    """Runs an exported file by a copy of the shipped runtime in an environment without us, and says what is in it."""
    shutil.copy(str(resources.files("detdistill").joinpath("export/runtime.py")), folder)
    image = min((folder / "scenes").rglob("*val*.png"))

    def said(*words: str) -> str:
        done = subprocess.run([python, "-I", *words], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    found = said("runtime.py", "model.onnx", str(image), "0").splitlines()
    assert found
    packages = said("-m", "pip", "list", "--format", "freeze", "--disable-pip-version-check").split()
    assert not [one for one in packages if one.startswith(("torch", "detdistill"))]
    return f"{len(found)} boxes found by it beside {', '.join(packages)}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]).absolute() if sys.argv[2:] else None)
