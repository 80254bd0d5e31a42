from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from detdistill.errors import ConfigError
from detdistill.report.curves import learning_curves, read_curves

HEADER = "step,seconds,lr,total,task,frs.features\n"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """Every figure that is saved while the test runs."""
    saved: list[Figure] = []
    save = Figure.savefig

    def keep(self, *args, **kwargs):
        saved.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def panels(figure: Figure) -> dict[str, object]:
    return {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}


def test_values_are_read_by_column(tmp_path):
    path = write(tmp_path, "a.csv", HEADER + "0,0.5,0.1,3,2,1\n10,1.5,0.2,2.5,,0.5\n")
    curves = read_curves(path)
    assert list(curves) == ["lr", "total", "task", "frs.features"]
    assert [part.tolist() for part in curves["total"]] == [[0, 10], [3, 2.5]]
    assert [part.tolist() for part in curves["task"]] == [[0], [2]]


def test_what_a_killed_or_diverged_run_leaves_is_skipped(tmp_path):
    text = HEADER + "0,0,0.1,3,2,1\n5,1,0.1,nan,inf,x\n\n10,2,0.1,2,1,0.5,99\n15,3,0.\n\0\0,1\nstep,seconds\n"
    curves = read_curves(write(tmp_path, "a.csv", text))
    assert [part.tolist() for part in curves["total"]] == [[0, 10], [3, 2]]
    assert curves["lr"][0].tolist() == [0, 5, 10, 15]


def test_the_later_row_counts_where_a_resumed_run_logged_again(tmp_path):
    text = HEADER + "0,0,1,9,9,9\n10,0,1,8,8,8\n20,0,1,7,7,7\n10,0,1,5,5,5\n"
    steps, values = read_curves(write(tmp_path, "a.csv", text))["total"]
    assert steps.tolist() == [0, 10, 20]
    assert values.tolist() == [9, 5, 7]


@pytest.mark.parametrize("text", ["", "\n", HEADER, HEADER + "0,1\n"[:2], "step\n1\n"])
def test_empty_files_still_give_a_picture(tmp_path, text):
    assert read_curves(write(tmp_path, "a.csv", text)) == {}
    learning_curves({"alone": tmp_path / "a.csv"}, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.format == "PNG"


def test_no_runs_still_give_a_picture(tmp_path):
    learning_curves({}, tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 0


def test_a_missing_file_and_a_foreign_one_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.csv must be a readable file, got: No such file"):
        read_curves(tmp_path / "gone.csv")
    with pytest.raises(ConfigError, match=r"must have a column 'step', got epoch, loss\. Pass the metrics CSV"):
        read_curves(write(tmp_path, "b.csv", "epoch,loss\n1,2\n"))


def test_one_panel_per_quantity_and_one_line_per_run(tmp_path, figures):
    rows = "".join(f"{s},0,0.1,{3 - s / 10},{2 - s / 10},{1 - s / 20}\n" for s in range(9))
    alone = write(tmp_path, "a.csv", "step,seconds,lr,total,task\n0,0,0.1,3,2\n20,0,0.1,1,1\n")
    learning_curves({"alone": alone, "distilled": write(tmp_path, "d.csv", HEADER + rows)}, tmp_path / "o.png")
    (figure,) = figures
    found = panels(figure)
    assert list(found) == ["total", "task", "frs.features", "lr"]
    assert [len(axes.lines) for axes in found.values()] == [2, 2, 1, 2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["alone", "distilled"]
    colours = {axes.lines[-1].get_color() for axes in found.values()}
    assert len(colours) == 1
    assert {axes.get_xlim() for axes in found.values()} == {(-0.4, 20.4)}


@pytest.mark.parametrize(
    ("values", "scale"), [((100, 1), "log"), ((5, 1), "linear"), ((100, 0), "linear"), ((100, -1), "linear")]
)
def test_a_panel_is_logarithmic_where_it_helps(tmp_path, figures, values, scale):
    path = write(tmp_path, "a.csv", f"step,lr,total\n0,0.001,{values[0]}\n1,1,{values[1]}\n")
    learning_curves({"run": path}, tmp_path / "o.png")
    found = panels(figures[0])
    assert found["total"].get_yscale() == scale
    assert found["lr"].get_yscale() == "linear"


def test_a_long_curve_is_smoothed_on_top_of_itself(tmp_path, figures):
    rows = "".join(f"{s},{2 + (-1) ** s}\n" for s in range(400))
    learning_curves({"run": write(tmp_path, "a.csv", "step,total\n" + rows)}, tmp_path / "o.png")
    raw, smooth = panels(figures[0])["total"].lines
    assert np.ptp(raw.get_ydata()) == 2
    assert np.ptp(smooth.get_ydata()) < 0.5
    assert math.isclose(smooth.get_ydata().mean(), 2, abs_tol=0.05)
    assert len(smooth.get_ydata()) == 400


def test_many_quantities_are_limited_and_keep_the_loss_and_the_rate(tmp_path, figures):
    names = ["step", "n0/below", *(f"n{i}" for i in range(40)), "lr", "total"]
    text = ",".join(names) + "\n" + ",".join("1" for _ in names) + "\n"
    learning_curves({"run": write(tmp_path, "a.csv", text)}, tmp_path / "o.png")
    found = list(panels(figures[0]))
    assert len(found) == 9
    assert (found[0], found[1], found[-1]) == ("total", "n0", "lr")
    assert "n0/below" not in found


def test_ap_over_steps_is_drawn_first_with_a_line_across_for_whom_was_measured_once(tmp_path, figures):
    alone = write(tmp_path, "a.csv", "step,seconds,lr,total\n0,0,0.1,3\n20,0,0.1,1\n")
    distilled = write(tmp_path, "d.csv", "step,seconds,lr,total\n0,0,0.1,3\n20,0,0.1,1\n")
    evaluations = write(tmp_path, "e.csv", "step,seconds,AP,AP50\n10,1,0.5,1\n20,2,24.5,50\n")
    learning_curves(
        {"alone": alone, "distilled": distilled},
        tmp_path / "o.png",
        evaluations={"distilled": evaluations},
        levels={"teacher": 30.0, "alone": 20.0, "distilled": 24.5},
    )
    (figure,) = figures
    found = panels(figure)
    assert list(found) == ["AP", "total", "lr"]
    curve, *across = found["AP"].lines
    assert curve.get_ydata().tolist() == [0.5, 24.5]
    assert [line.get_ydata() for line in across] == [[30.0, 30.0], [20.0, 20.0]]
    assert found["AP"].get_yscale() == "linear"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["teacher", "alone", "distilled"]
    learning_curves({"alone": alone}, tmp_path / "o.png", levels={"teacher": 30.0})
    assert list(panels(figures[1])) == ["total", "lr"]
