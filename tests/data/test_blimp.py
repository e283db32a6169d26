"""Reading minimal pairs, error messages with line and field, and accuracies."""

import gzip
import json
from pathlib import Path

import huggingface_hub
import pytest

from harness.data import blimp
from harness.data.blimp import compute_accuracies, read_minimal_pairs
from harness.data.blimp_published import PUBLISHED_ACCURACY
from tests.conftest import ROOT

SHARED = Path(ROOT).parent / "shared" / "data" / "blimp"


def make_row(
    number: int, uid: str = "plural", term: str = "agreement", field: str = "morphology", **other: object
) -> dict:
    sentences = {"sentence_good": f"{number} cats sleep.", "sentence_bad": f"{number} cats sleeps."}
    return {**sentences, "UID": uid, "linguistics_term": term, "field": field, **other}


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    text = "\n".join(json.dumps(one) for one in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_read_minimal_pairs_from_folder_equals_single_file(tmp_path) -> None:
    first, second = (
        [make_row(n) for n in range(3)],
        [make_row(n, "case", "binding", "syntax/semantics") for n in range(3)],
    )
    (tmp_path / "folder").mkdir()
    write_jsonl(tmp_path / "folder" / "plural.jsonl", first)
    write_jsonl(tmp_path / "folder" / "case.jsonl.gz", second)
    together = write_jsonl(tmp_path / "all.jsonl", [one for pair in zip(first, second, strict=True) for one in pair])
    pairs = read_minimal_pairs(str(tmp_path / "folder"))
    assert pairs == read_minimal_pairs(str(together))
    assert [(pair.paradigm, pair.good[0]) for pair in pairs] == [(uid, n) for uid in ("case", "plural") for n in "012"]
    assert {pair.field for pair in pairs} == {"morphology", "syntax_semantics"}


def test_per_paradigm_keeps_first_pairs(tmp_path) -> None:
    file = write_jsonl(tmp_path / "all.jsonl", [make_row(n, uid) for n in range(9) for uid in ("plural", "case")])
    pairs = read_minimal_pairs(str(file), per_paradigm=2)
    assert [(pair.paradigm, pair.good[0]) for pair in pairs] == [(uid, n) for uid in ("case", "plural") for n in "01"]
    with pytest.raises(ValueError, match="per_paradigm=0 must be at least 1"):
        read_minimal_pairs(str(file), per_paradigm=0)


def test_read_minimal_pairs_without_path_is_empty() -> None:
    assert read_minimal_pairs(None) == []


def test_files_without_sentences_are_skipped_only_in_folders(tmp_path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [make_row(1)])
    other = write_jsonl(tmp_path / "summary.jsonl", [{"UID": "plural", "gpt2": 0.9}])
    assert len(read_minimal_pairs(str(tmp_path))) == 1
    with pytest.raises(ValueError, match=r"summary\.jsonl, line 1 has no sentence_good; a row needs text in sentence_"):
        read_minimal_pairs(str(other))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([make_row(1), {**make_row(2), "UID": None}], r"line 2 has None in UID; a row needs text in"),
        ([make_row(1), {**make_row(2), "sentence_bad": " "}], r"line 2 has ' ' in sentence_bad"),
        ([make_row(1), {k: v for k, v in make_row(2).items() if k != "field"}], r"line 2 has no field"),
        ([make_row(1), make_row(2), make_row(1)], r"line 3 repeats the pair of .*line 1; remove one"),
        (
            [make_row(1), make_row(2, term="binding")],
            r"line 2 puts the UID 'plural' under 'binding' of .*line 1 under 'agree",
        ),
    ],
)
def test_invalid_row_error_names_line_and_field(rows: list[dict], message: str, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        read_minimal_pairs(str(write_jsonl(tmp_path / "rows.jsonl", rows)))


def test_unreadable_data_is_rejected(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist; give a file, a folder or a glob"):
        read_minimal_pairs(str(tmp_path / "nothing.jsonl"))
    with pytest.raises(FileNotFoundError, match=r"holds no \.jsonl, \.ndjson file"):
        read_minimal_pairs(str(tmp_path))
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match=r"empty\.jsonl is empty; give files with content"):
        read_minimal_pairs(str(tmp_path))
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(ValueError, match="contains no pairs"):
        read_minimal_pairs(str(tmp_path))
    (tmp_path / "empty.jsonl").write_text("{")
    with pytest.raises(ValueError, match=r"line 1 is not JSON"):
        read_minimal_pairs(str(tmp_path))


def test_compute_accuracies_with_binomial_standard_errors(tmp_path) -> None:
    many = [make_row(n) for n in range(6)] + [make_row(n, "case", "binding", "syntax") for n in range(2)]
    pairs = read_minimal_pairs(str(write_jsonl(tmp_path / "rows.jsonl", many)))
    accuracies = compute_accuracies(pairs, [False, True, *[True] * 3, *[False] * 3])  # case, then plural
    values = {(group.kind, group.name): (group.accuracy.value, group.accuracy.count) for group in accuracies}
    assert values == {
        ("all", "accuracy"): (0.5, 8),
        ("field", "morphology"): (0.5, 6),
        ("field", "syntax"): (0.5, 2),
        ("phenomenon", "agreement"): (0.5, 6),
        ("phenomenon", "binding"): (0.5, 2),
        ("paradigm", "case"): (0.5, 2),
        ("paradigm", "plural"): (0.5, 6),
    }
    assert accuracies[0].accuracy.standard_error == pytest.approx((0.5 * 0.5 / 7) ** 0.5)
    unequal = compute_accuracies(pairs, [True, True, *[False] * 6])[0].accuracy
    assert unequal.value == 0.25  # the mean over the two paradigms is 0.5


def test_hub_data_set_reads_one_configuration_per_paradigm(tmp_path, monkeypatch) -> None:
    local = tmp_path / "of_the_hub"
    local.mkdir()
    configurations = [f"- config_name: {uid}\n  data_files: {uid}.jsonl" for uid in ("plural", "case")]
    (local / "README.md").write_text("\n".join(["---", "configs:", *configurations, "---"]))
    for uid in ("plural", "case"):
        write_jsonl(local / f"{uid}.jsonl", [make_row(n, uid, pair_id=n, simple_LM_method=True) for n in range(3)])
    expected = read_minimal_pairs(str(local))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(blimp, "HUB_DATASET", str(local))
    assert read_minimal_pairs(str(local)) == expected
    assert len(expected) == 6


def test_hub_data_set_offline_error_names_remedy(monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"path='nyu-mll/blimp' .* does not load: .*offline, give a local folder"):
        read_minimal_pairs("nyu-mll/blimp")


@pytest.mark.skipif(not SHARED.exists(), reason="BLiMP is not here: ../shared/data/blimp")
def test_public_files_have_67_paradigms_and_published_accuracies() -> None:
    pairs = read_minimal_pairs(str(SHARED), per_paradigm=20)
    assert len(pairs) == 67 * 20
    assert {pair.phenomenon for pair in pairs} == PUBLISHED_ACCURACY.keys() - {"accuracy"}
    assert {pair.field for pair in pairs} == {"morphology", "syntax", "semantics", "syntax_semantics"}
    published = [json.loads(line) for line in (SHARED / "models_summary.jsonl").read_text().splitlines()]
    overall = {one["linguistics_term"]: one for one in published if one["UID"] == "overall"}
    for name, shares in PUBLISHED_ACCURACY.items():
        theirs = overall["overall" if name == "accuracy" else name]
        assert shares == pytest.approx([theirs[model] for model in ("ngram", "lstm", "txl", "gpt2")], abs=6e-5)
