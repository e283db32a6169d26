"""Charts of any values and names."""

import math
import re
import xml.etree.ElementTree as ET

import pytest

from harness.evidence.charts import draw_chart
from harness.evidence.charts.figure_data import Curves, Line, PointGroup, Points, Role, SeedRow, Seeds
from harness.evidence.charts.svg_chart import Chart, break_label, fit_text, measure_text
from tests.evidence.charts.hard_figures import HARD_FIGURES

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", HARD_FIGURES)
def test_chart_is_whole_small_and_the_same_every_time(name: str) -> None:
    text = draw_chart(HARD_FIGURES[name]).render("a name", is_file=True)
    assert text == draw_chart(HARD_FIGURES[name]).render("a name", is_file=True)
    root = ET.fromstring(text)
    assert (root.get("role"), root.get("aria-label")) == ("img", "a name")
    assert len(text) < 200_000
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"<(title|text)[^>]*>[^<]*<", "", text))
    assert not list(root.iter(f"{SVG}script"))
    for element in root.iter():
        for key in ("x", "y", "cx", "cy", "width", "height"):
            if (value := element.get(key, "0")) != "100%":
                assert abs(float(value)) <= 1e5
        assert not element.get("id")
        assert not any(key.startswith("on") or key.endswith("href") for key in element.attrib)


def test_file_needs_no_variables_and_has_dark_colors() -> None:
    text = draw_chart(HARD_FIGURES["curves"]).render("a", is_file=True)
    assert "var(" not in text
    assert "prefers-color-scheme: dark" in text


def list_marks(chart: Chart, classes: str) -> list[ET.Element]:
    root = ET.fromstring(chart.render("a", is_file=True))
    return [element for element in root.iter() if element.get("class") == classes]


@pytest.mark.parametrize("role", ["baseline", "best", "candidate"])
def test_no_two_lines_look_the_same(role: Role) -> None:
    lines = [Line("A", role, (0.0, 1.0), (1.0, 2.0))]
    lines += [Line(chr(66 + index), "candidate", (0.0, 1.0), (1.0, 2.0)) for index in range(23)]
    text = draw_chart(Curves(tuple(lines), "steps", "loss")).render("a")
    styles = re.findall(r'<polyline points="[^"]*" class="([^"]*)"', text)
    assert len({*styles}) == len(styles) == 24


def read_ends(text: str) -> list[tuple[float, float]]:
    """Return the last point of each grey line."""
    [path] = re.findall(r'd="(M[^"]+)" class="rest thin', text)
    return [tuple(map(float, line.split("L")[-1].split())) for line in path.split("M")[1:]]  # type: ignore[misc]


def test_pruned_trials_end_where_they_ended() -> None:
    lines = (
        Line("baseline", "baseline", (0.0, 50.0, 100.0), (4.0, 3.5, 3.0)),
        Line("trial 1", "pruned", (0.0, 25.0), (4.0, 3.8)),
        Line("trial 2", "trial", (0.0, 100.0), (4.0, 3.2)),
    )
    chart = draw_chart(Curves(lines, "steps", "loss"))
    (pruned_x, _), (other_x, _) = read_ends(chart.render("a"))
    baseline = list_marks(chart, "second dash line")[-1].get("points", "")
    first, *_, last = [tuple(map(float, point.split(","))) for point in baseline.split()]
    assert other_x == last[0]
    assert pruned_x == pytest.approx(first[0] + (last[0] - first[0]) / 4, abs=0.1)


def test_a_diverged_curve_does_not_squeeze_the_others() -> None:
    lines = (
        Line("baseline", "baseline", (0.0, 100.0), (4.0, 3.0)),
        Line("trial 1", "diverged", (0.0, 50.0), (4.0, 1e20)),
    )
    chart = draw_chart(Curves(lines, "steps", "loss"))
    baseline = list_marks(chart, "second dash line")[-1].get("points", "")
    heights = [float(point.split(",")[1]) for point in baseline.split()]
    assert max(heights) - min(heights) > 150


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((1e-4, 1e-3, 1e-2, 1e-1), ["1e-4", "1e-3", "0.01", "0.1"]),
        ((2, 4, 8, 16, 32) * 3, ["2", "4", "8", "16", "32"]),
        ((0.0, 0.05, 0.12, 0.2), ["0.00", "0.05", "0.10", "0.15", "0.20"]),
        (("sgd", "adamw", "muon"), ["adamw", "muon", "sgd"]),
        ((True, False), ["false", "true"]),
        (("none", 0.5, 1.0), ["0.5", "1.0", "none"]),
    ],
)
def test_axis_follows_the_values_of_the_parameter(values: tuple[object, ...], labels: list[str]) -> None:
    group = PointGroup("completed", "trial", values, tuple(3.0 + index for index in range(len(values))))
    chart = draw_chart(Points((group,), "x", "loss"))
    assert [element.text for element in list_marks(chart, "middle soft")] == labels


def test_trials_without_a_value_are_marked_above_the_others() -> None:
    groups = (
        PointGroup("2 completed", "trial", (1e-3, 1e-2), (3.5, 3.4)),
        PointGroup("1 diverged", "diverged", (0.1,), (None,)),
    )
    chart = draw_chart(Points(groups, "lr", "loss"))
    _, cross = list_marks(chart, "mark ink")
    assert float((cross.get("d") or "M0 0").split()[1].split("L")[0]) < min(
        float(point.get("cy", "0")) for point in list_marks(chart, "mark rest solid")[1:]
    )


def test_seeds_that_diverged_are_counted() -> None:
    row = SeedRow("trial 7", "candidate", (3.4, math.nan, math.inf, None), 3.4)
    assert "2 of 3" in draw_chart(Seeds((row,), "test loss")).render("a")


def test_seeds_that_failed_or_were_not_run_are_not_drawn() -> None:
    row = SeedRow("trial 7", "candidate", (3.4, None, None), 3.4)
    drawn = draw_chart(Seeds((row,), "test loss")).render("a")
    assert "diverged" not in drawn
    assert " of " not in drawn


def test_lines_of_pairs_end_at_the_circles_of_their_seeds() -> None:
    """Circles of almost equal values are moved apart."""
    rows = (
        SeedRow("baseline", "baseline", (3.5, 3.5001, 3.7), 3.57),
        SeedRow("trial", "candidate", (3.4, 3.3, 3.2), 3.3),
    )
    chart = draw_chart(Seeds(rows, "loss"))
    marks = [*list_marks(chart, "mark second open"), *list_marks(chart, "mark first open")]
    circles = {f"{mark.get('cx')} {mark.get('cy')}" for mark in marks}
    ends = [end for line in list_marks(chart, "rest thin") for end in (line.get("d") or "").lstrip("M").split("L")]
    assert len(ends) == 6
    assert set(ends) == circles


def test_long_text_is_cut_in_its_middle_and_wrapped_between_words() -> None:
    fitted = fit_text("first " + "x" * 1000 + " last", 200)
    assert measure_text(fitted) <= 200
    assert (fitted[:5], fitted[-4:]) == ("first", "last")
    assert break_label("one two three", measure_text("one two")) == ["one two", "three"]


def test_points_beyond_the_axis_are_marked_and_explained() -> None:
    values = (3.1, 3.2, 3.3, 3.4, 3.5, 1e9)
    group = PointGroup("6 completed", "trial", tuple(range(1, 7)), values)
    text = draw_chart(Points((group,), "width", "loss")).render("a")
    assert "beyond the axis" in text
    assert text.count('class="mark rest"') == 1
