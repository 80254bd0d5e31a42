"""The house rules that a reader relies on: where imports point, how long files are, what documents its source."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from detdistill.store import layout
from every_method import RECIPES, WRAPPERS
from source_trees import PACKAGE, ROOT, SOURCES, nodes_below, nodes_of, tree_of

LONGEST_FILE = 400
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
MODEL_PACKAGES = ("torchvision.models", "timm", "transformers")
MAY_PRINT = {"cli", "bench", "progress", "output"}
# A program by itself, which users copy.
RUNTIME = "src/detdistill/export/runtime.py"

# Public parts that follow no paper: plumbing and one-line arithmetic. A new part either documents its source, with
# the sections below, or is named here.
PLAIN_PARTS = {
    "align": {"per_stride", "at_stride", "IdentityAlign", "ConvAlign"},
    "attention": {"teachers_attentions", "inside_mean"},
    "choose": {"build_choice"},
    "compare": {"squared", "absolute", "squared_sums", "bce_sums", "distances", "weighed_squares"},
    "focus": {"box_masks"},
    "normalize": {"plain_sum", "by_cells", "by_mask_sum", "by_batch_mask_sum"},
    "select": {"class_logits", "class_distributions", "box_distributions"},
    "sets": {"Matched", "box_shares", "giou"},
    "structural": {"Components", "gaussian_taps", "reflecting_blur", "dissimilarity"},
    "weigh": {"difficulty"},
}
SECTIONS = ("Source", "Differs from the source")
METHOD_SECTIONS = ("Formula", "Raises", "Needs", *SECTIONS)

WRITING = {"open", "write_text", "write_bytes", "save", "save_file", "savefig", "mkdir", "touch", "symlink_to"}
WRITING |= {"os.replace", "os.rename", "os.makedirs", "os.write", "json.dump", "torch.save", "np.save"}
WRITING |= {f"shutil.{name}" for name in ("copy", "copy2", "copyfile", "copyfileobj", "copytree", "move")}
WRITING |= {"SummaryWriter", "FileHandler", "NamedTemporaryFile", "mkstemp"}
LAST_NAMES = {name.rpartition(".")[2] for name in WRITING}
BY_NAME = {"write_text", "write_bytes", "save"}  # the functions of `files`, and of safetensors, which makes bytes
IN_MEMORY = {"content", "buffer", "_Sink(add)"}  # the last hands what it gets to `files`

# What the layout calls files; its folders "twins" and "tensorboard" are also words of the settings.
RUN_FILES = {
    text
    for text in re.findall(r'"([^"\n]+)"', (PACKAGE / "store" / "layout.py").read_text(encoding="utf-8"))
    if re.fullmatch(r"\w+\.(?:json|csv|png|yaml|safetensors)", text) or text == layout.CHECKPOINTS
}

WITH_OTHERS = {"hint", "frs", "ssim"}  # their slow references stand in tests/reference/test_recipes.py
NO_VECTORS = {"hint"}  # one mean of squares, of our own making: nobody published numbers for it


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def prints(nodes: Iterable[ast.AST]) -> list[int]:
    lines = []
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "Console"):
            lines.append(node.lineno)
        if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr"):
            owner = node.value
            if isinstance(owner, ast.Name) and owner.id == "sys":
                lines.append(node.lineno)
    return lines


def last_name(called: ast.expr) -> str:
    """`dump` of `json.dump`; empty where what is called has no name."""
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def writes(nodes: Iterable[ast.AST]) -> list[str]:
    """Calls that write a file, or make a folder, by themselves."""
    found = []
    for node in nodes:
        if not isinstance(node, ast.Call) or last_name(node.func) not in LAST_NAMES:
            continue
        name, method = ast.unparse(node.func), getattr(node.func, "attr", "")
        words = [ast.unparse(one) for one in (*node.args[:2], *(one.value for one in node.keywords))]
        reads = method == "open" and not any(re.fullmatch(r"'[rbt+]*[wax+][bt]*'", word) for word in words)
        if WRITING & {name, method} and name not in BY_NAME and not reads and not IN_MEMORY & set(words[:1]):
            found.append(f"{name} on line {node.lineno}")
    return found


def loose(nodes: Iterable[ast.AST]) -> list[str]:
    """Constructs that hide an interface: hasattr, **kwargs in a signature, an unfinished function."""
    found = []
    for node in nodes:
        if isinstance(node, ast.Name) and node.id in ("hasattr", "NotImplementedError"):
            found.append(f"{node.id} on line {node.lineno}")
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.args.kwarg is not None:
            found.append(f"**{node.args.kwarg.arg} in {node.name} on line {node.lineno}")
    return found


def spelled(nodes: Iterable[ast.AST]) -> list[str]:
    """Names of a run folder's files that stand in the code, alone or at the end of a path; prose is no matter."""
    texts = (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return [name for text in texts for name in RUN_FILES if text == name or text.endswith(f"/{name}")]


def section(documentation: str, title: str) -> str:
    """The text of a docstring's section, empty where there is none."""
    found = re.search(rf"^{title}:\n((?:[ \t]+.*\n?|\n)+)", inspect.cleandoc(documentation), flags=re.MULTILINE)
    return found.group(1).strip() if found else ""


def test_imports_point_down() -> None:
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_logo=True) == 0, "run lint-imports"


def test_every_folder_is_a_package() -> None:
    # import-linter does not look into a folder without __init__.py.
    folders = {path.parent for path in SOURCES}
    assert not [name_of(folder) for folder in folders if not (folder / "__init__.py").is_file()]


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "examples"])
def test_no_file_is_too_long(folder: str) -> None:
    lengths = {
        name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py")
    }
    assert not {name: length for name, length in lengths.items() if length > LONGEST_FILE}


def test_no_module_has_a_vague_name() -> None:
    assert not [name_of(path) for path in SOURCES if VAGUE_NAMES & set(path.relative_to(PACKAGE).with_suffix("").parts)]


def test_only_the_detectors_import_models() -> None:
    elsewhere = [path for path in SOURCES if layer_of(path) != "detectors"]
    found = {
        name_of(path): module
        for path in elsewhere
        for module in imported(nodes_of(path))
        if any(module == package or module.startswith(f"{package}.") for package in MODEL_PACKAGES)
    }
    assert not found


def test_only_one_place_writes_files() -> None:
    elsewhere = [path for path in SOURCES if path.name != "files.py"]
    assert not {name_of(path): found for path in elsewhere if (found := writes(nodes_of(path)))}


def test_only_the_command_line_prints() -> None:
    elsewhere = [path for path in SOURCES if layer_of(path) not in MAY_PRINT and name_of(path) != RUNTIME]
    assert not {name_of(path): lines for path in elsewhere if (lines := prints(nodes_of(path)))}


def test_no_interface_is_hidden() -> None:
    assert not {name_of(path): found for path in SOURCES if (found := loose(nodes_of(path)))}


def test_only_the_store_knows_the_files_of_a_run() -> None:
    assert {layout.WEIGHTS, layout.LATEST, layout.CHECKPOINTS, "metrics.csv", "config.yaml"} <= RUN_FILES
    elsewhere = [path for path in SOURCES if layer_of(path) != "store"]
    assert not {name_of(path): found for path in elsewhere if (found := spelled(nodes_of(path)))}


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"\b(?:TODO|FIXME|XXX)\b")
    assert not [name_of(path) for path in SOURCES if marks.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("name", sorted(RECIPES | WRAPPERS))
def test_every_method_documents_its_source(name: str) -> None:
    documentation = (RECIPES | WRAPPERS)[name].build.__doc__ or ""
    assert not [title for title in METHOD_SECTIONS if not section(documentation, title)]


@pytest.mark.parametrize("name", sorted(RECIPES | WRAPPERS))
def test_every_method_has_a_slow_reference_and_numbers_by_hand(name: str) -> None:
    for kind, together in (("reference", WITH_OTHERS), ("golden", NO_VECTORS)):
        own = {word for path in (ROOT / "tests" / kind).glob("test_*.py") for word in path.stem.split("_")}
        assert name in own or name in together, kind


def test_what_is_said_to_be_elsewhere_is_there() -> None:
    text = (ROOT / "tests" / "reference" / "test_recipes.py").read_text(encoding="utf-8")
    assert all(f"def slow_{name}(" in text for name in WITH_OTHERS)
    assert RECIPES.keys() >= WITH_OTHERS | NO_VECTORS


def test_every_part_documents_its_source_or_is_plain() -> None:
    silent = []
    for path in sorted((PACKAGE / "methods" / "parts").glob("*.py")):
        for node in tree_of(path).body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                continue
            documentation = ast.get_docstring(node) or ""
            given = [title for title in SECTIONS if section(documentation, title)]
            plain = node.name in PLAIN_PARTS.get(path.stem, ())
            if len(given) != len(SECTIONS) and not (plain and not given):
                silent.append(f"{path.stem}.{node.name}")
    assert not silent


def test_the_plain_parts_exist() -> None:
    for module, names in PLAIN_PARTS.items():
        there = {
            node.name
            for node in tree_of(PACKAGE / "methods" / "parts" / f"{module}.py").body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        }
        assert not names - there, f"parts/{module}.py"


def seen(text: str) -> list[ast.AST]:
    return [*nodes_below(ast.parse(text))]


def test_the_checks_see_what_they_look_for() -> None:
    bad = seen(
        "import sys\nimport timm\nfrom torchvision import models\n"
        "def f(**options):\n    print(1)\n    hasattr(f, 'x')\n    raise NotImplementedError\n"
        "sys.stdout.write('')\nf.open()\nf.open('w')\njson.dump({}, f)\n"
    )
    assert set(imported(bad)) >= {"timm", "torchvision.models"}
    assert prints(bad) == [8, 5] or sorted(prints(bad)) == [5, 8]
    assert len(loose(bad)) == 3
    assert sorted(writes(bad)) == ["f.open on line 10", "json.dump on line 11"]
    told = spelled(seen("'metrics.csv'; f'{out}/results.json'; 'see metrics.csv here'"))
    assert sorted(told) == ["metrics.csv", "results.json"]
    assert section("One line.\n\nSource:\n    A paper.\n\nNeeds:\n    b\n", "Source") == "A paper."
    assert section("One line.\n\nNeeds:\n    b\n", "Source") == ""
