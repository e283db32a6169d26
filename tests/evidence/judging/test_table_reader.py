import json
from pathlib import Path

import pytest

from harness.core.errors import ConfigError
from harness.evidence.judging.table_reader import read_table_rows

CELLS = {"commit": "a1b2c3d", "val_bpb": "1.2", "description": 'the "wide" one, again'}


@pytest.mark.parametrize(
    "text",
    [
        'commit\tval_bpb\tdescription\na1b2c3d\t1.2\tthe "wide" one, again\n',
        "commit,val_bpb,description\na1b2c3d,1.2,\"the \"\"wide\"\" one, again\"\n",
        'commit,val_bpb,description\r\na1b2c3d,1.2,the "wide" one, again\r\n',
        '# Results\n\n| commit | val_bpb | description |\n|---|--:|---|\n| a1b2c3d | 1.2 | the "wide" one, again |\n',
        '| # | commit | val_bpb | description |\n|-|-|-|-|\n| 1 | a1b2c3d | 1.2 | the "wide" one, again |\n',
        "commit;val_bpb;description\na1b2c3d;1,2;\"the \"\"wide\"\" one, again\"\n",
        json.dumps(CELLS) + "\n",
        json.dumps([CELLS]),
        json.dumps({"name": "loop", "runs": [CELLS]}),
    ],
)  # fmt: skip
def test_the_same_row_in_all_formats(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results"
    path.write_text(text)
    _, rows, _ = read_table_rows(path)
    assert len(rows) == 1
    row = {name: cell for name, cell in rows[0][1].items() if name != "#"}
    assert (rows[0][0], row) == (1, CELLS)


def test_nested_objects_have_dotted_names_and_null_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text('{"id": 1, "metrics": {"val_loss": 2.5, "acc": null}, "ok": true}\n')
    assert read_table_rows(path)[1] == [(1, {"id": "1", "metrics.val_loss": "2.5", "metrics.acc": "", "ok": "true"})]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not a table"),
        ("hello\nworld\n", "not a table"),
        ("commit\tval_bpb\n", "no rows"),
        ("a1b2c3d\t1.25\tkeep\nb1b2c3d\t1.2\tkeep\n", "must name each column"),
        ("commit\tval\tval\na\t1\t2\n", "must name each column"),
        ('{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        ("[1, 2]", "entry 1 is not an object"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "results.tsv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_table_rows(path)
