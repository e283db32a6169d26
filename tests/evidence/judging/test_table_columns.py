from collections.abc import Sequence

import pytest

from harness.core.errors import ConfigError
from harness.evidence.judging.table_columns import find_columns


def make_rows(columns: Sequence[str], *cells: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    return [(number, dict(zip(columns, row, strict=True))) for number, row in enumerate(cells, 1)]


@pytest.mark.parametrize(
    ("header", "metric", "direction", "named"),
    [
        ("commit val_bpb memory_gb status description", "val_bpb", "minimize", ("commit", "status", "description")),
        ("commit val_bpb memory_gb mfu tok_per_sec num_steps final_loss status description", "val_bpb", "minimize",
         ("commit", "status", "description")),
        ("commit roc_auc memory_gb status description", "roc_auc", "maximize", ("commit", "status", "description")),
        ("timestamp commit status score budget_sec description", "score", "maximize",
         ("commit", "status", "description")),
        ("commit kind val_bpb delta_vs_best memory_gb status hypothesis description", "val_bpb", "minimize",
         ("commit", "status", "description")),
        ("commit accuracy adjusted_score cost_per_doc latency_s status description", "accuracy", "maximize",
         ("commit", "status", "description")),
        ("run_name lr train_loss val_loss seconds notes", "val_loss", "minimize", ("run_name", None, "notes")),
        ("id metrics.val_loss metrics.train_loss", "metrics.val_loss", "minimize", ("id", None, None)),
    ],
)  # fmt: skip
def test_columns_of_tables_in_use(header: str, metric: str, direction: str, named: tuple[str | None, ...]) -> None:
    columns = header.split()
    found = find_columns(columns, make_rows(columns, ["1.5"] * len(columns)))
    assert (found.metric, found.direction) == (metric, direction)
    assert (found.id, found.status, found.description) == named


@pytest.mark.parametrize(
    ("header", "options", "problem"),
    [
        ("commit quality", {}, "no column is known"),
        ("commit quality", {"metric": "quality"}, "--maximize or --minimize"),
        ("commit val_loss val_acc", {}, "several columns"),
        ("commit val_loss", {"metric": "val_los"}, "did you mean 'val_loss'"),
        ("commit val_loss", {"id_column": "sha"}, "--id: sha"),
        ("commit val_loss", {"config": ["lr"]}, "--config: lr"),
    ],
)
def test_what_cannot_be_told_is_asked_for(header: str, options: dict, problem: str) -> None:
    columns = header.split()
    with pytest.raises(ConfigError, match=problem):
        find_columns(columns, make_rows(columns, ["1.5"] * len(columns)), **options)


@pytest.mark.parametrize("column", ["seed", "random_seed", "config.seed", "Seed"])
def test_seeds_are_found_by_the_last_part_of_their_name(column: str) -> None:
    columns = ["id", column, "val_loss"]
    assert find_columns(columns, make_rows(columns, ["1", "2", "3"])).seed == column


def test_settings_of_tools_make_repeats_without_being_named() -> None:
    columns = ["run", "config.lr", "config.seed", "metrics.val_loss"]
    assert find_columns(columns, make_rows(columns, ["a", "1", "2", "3"])).config == ("config.lr",)
    columns[0] = "commit"
    assert find_columns(columns, make_rows(columns, ["a", "1", "2", "3"])).config == ()


def test_the_curve_of_one_run_is_refused() -> None:
    columns = ["epoch", "val_loss"]
    with pytest.raises(ConfigError, match="plateau diagnose"):
        find_columns(columns, make_rows(columns, ["1", "3.2"], ["2", "3.1"], ["3", "3.0"]))
