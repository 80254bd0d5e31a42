"""Whether a wheel is whole and works where nothing but it and what it asks for is installed.

python benchmarks/check_dist.py WHEEL      (by the Python that it is installed for: `make check-dist`)
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from importlib import metadata, resources
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What only extras bring.
EXTRAS = ("transformers", "onnx", "onnxruntime", "openvino", "executorch", "mlflow", "wandb", "tensorboard", "optuna")
COMMANDS = (
    ("--help",),
    ("methods",),
    ("methods", "frs"),
    ("settings", "early stop"),
    ("--install-completion", "--shell", "bash"),
    ("data", "make", "scenes", "--out", "scenes", "--train", "4", "--val", "2"),
    ("train", "--detector", "fcos/tiny", "--data", "scenes", "--out", "run", "--steps", "2", "train.batch_size=2"),
    ("evaluate", "run", "--data", "scenes"),
    ("report", "run"),
    ("reproduce", "aid", "--scale", "full", "--plan", "--data", "nowhere"),
)


def expected() -> set[str]:
    """Every file that the wheel must hold."""
    source, rows = ROOT / "src", ROOT / "configs/papers"
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    files |= {f"detdistill/papers/rows/{path.relative_to(rows).as_posix()}" for path in rows.rglob("*.yaml")}
    return {name for name in files if "__pycache__" not in name and ".egg-info" not in name}


def main(wheel: Path) -> None:
    """Ends with an error where anything is missing."""
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    missing = sorted(expected() - held)
    assert not missing, f"not in {wheel.name}: {missing}"
    assert "detdistill/py.typed" in held
    there = [name for name in EXTRAS if find_spec(name)]
    assert not there, f"these are extras and not to be here: {there}"
    assert not Path(str(resources.files("detdistill"))).is_relative_to(ROOT / "src"), "this is not the wheel's package"
    command = Path(sysconfig.get_path("scripts")) / "detdistill"
    with tempfile.TemporaryDirectory() as folder:
        environment = {"HOME": folder, "PATH": "/usr/bin:/bin", "OMP_WAIT_POLICY": "PASSIVE"}
        for words in COMMANDS:
            done = subprocess.run(
                [command, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            said = done.stdout + done.stderr
            asked_for_data = words[0] == "reproduce" and done.returncode == 2
            assert done.returncode == 0 or asked_for_data, f"{' '.join(words)}: {said}"
            assert "Traceback" not in said, said
        assert Path(folder, ".local/share/bash-completion/completions/detdistill").is_file()
    packages = len(list(metadata.distributions()))
    print(f"{wheel.name}: {len(held)} files, {packages} packages installed, {len(COMMANDS)} commands run")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
