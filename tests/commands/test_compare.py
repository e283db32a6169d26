"""The command compare: runs, trials and logs of any program, and what it prints."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness import cli
from harness.importers import read_history
from harness.record.example_losses import BEST_EXAMPLES, FINAL_EXAMPLES, read_example_losses, write_example_losses
from tests.record.trials import write_trial


def write_log(path: Path, start: float, steps: int = 6) -> Path:
    losses = [start - 0.1 * n for n in range(steps)]
    lines = [f"step {10 * n}: train loss {loss + 0.05:.4f}, val loss {loss:.4f}\n" for n, loss in enumerate(losses)]
    path.write_text("".join(lines))
    return path


@pytest.fixture
def logs(tmp_path: Path) -> list[str]:
    return [str(write_log(tmp_path / "first.log", 4.0)), str(write_log(tmp_path / "second.log", 3.8, 9))]


def test_two_logs_as_text(logs, capsys) -> None:
    assert cli.main(["compare", *logs, "--reach", "3.6", "--reach", "3.2"]) == 0
    printed = capsys.readouterr().out
    assert "Cannot tell whether comparable\n  the logs do not say which data they were validated on" in printed
    assert re.search(r"best validation loss +3.5000 +3.0000\n", printed)
    assert re.search(r"B − A, best +-0.5 +-14.29% .*lower\n", printed)
    assert re.search(r"≤ 3.6, steps +30 to 40 +10 to 20\n", printed)
    assert re.search(r"≤ 3.2, steps +never \(to 50\) +50 to 60\n", printed)
    assert "One run a side is one seed" in printed
    assert not re.search(r"\b(better|worse|significant|faster)\b", printed)


def test_run_of_ours_with_itself_and_with_another(finished, logs, tmp_path, capsys) -> None:
    assert cli.main(["compare", str(finished), str(finished)]) == 0
    printed = capsys.readouterr().out
    assert "A and B are the same run." in printed
    assert re.search(r"B − A, best +\+0 .*equal\n", printed)
    assert "± standard error" in printed
    assert "nats/token" in printed
    assert cli.main(["compare", str(finished), logs[0]]) == 0
    printed = capsys.readouterr().out
    assert "first: the log does not say which data it was validated on" in printed


def test_json_says_the_same(finished, tmp_path, capsys) -> None:
    other = tmp_path / "other"
    other.mkdir()
    first, *rest = (finished / "metrics.jsonl").read_text().splitlines()
    start = json.loads(first)
    start["params"] |= {"optimizer.lr": "0.5", "output_dir": "elsewhere"}
    start["tags"]["git.commit"] = "0" * 40
    del start["crc32"]
    (other / "metrics.jsonl").write_text("\n".join([json.dumps(start), *rest]) + "\n")
    assert cli.main(["compare", str(finished), str(other), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1
    assert found["comparability"] == {"verdict": "comparable", "reasons": []}
    assert {one["key"]: one["kind"] for one in found["settings"]}["optimizer.lr"] == "setting"
    assert {one["key"]: one["values"]["B"] for one in found["settings"] if one["kind"] == "code"}[
        "git.commit"
    ] == "0" * 40
    assert found["settings_left_out"] == ["output_dir"]
    run = found["runs"][0]
    assert run["parameters"] > 0 < run["seconds"]
    assert run["best"]["standard_error"] > 0
    assert [one["direction"] for one in found["differences"]] == ["equal", "equal"]


def test_examples_of_two_runs_are_paired(finished, tmp_path, capsys) -> None:
    """The losses of the examples add up to the validation loss; those of a copied run are changed by a tenth."""
    losses = read_example_losses(finished / BEST_EXAMPLES)
    history = read_history(finished)
    step = list(history["val/loss"].steps).index(losses.step)
    assert losses.sums.sum() / losses.counts.sum() == pytest.approx(history["val/loss"].values[step])
    assert read_example_losses(finished / FINAL_EXAMPLES).step == 12
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_bytes((finished / "metrics.jsonl").read_bytes())
    write_example_losses(other / BEST_EXAMPLES, replace(losses, sums=losses.sums + losses.counts / 10))
    (other / FINAL_EXAMPLES).write_bytes(b"damaged")
    assert cli.main(["compare", str(finished), str(other)]) == 0
    streams = capsys.readouterr()
    assert re.search(rf"\+0.1 \[\+0.1, \+0.1], n = {len(losses.sums):,} ", streams.out)
    assert f"note: not paired: {other / FINAL_EXAMPLES} is damaged" in streams.err


def test_runs_on_other_data_are_refused(finished, tmp_path, capsys) -> None:
    other = tmp_path / "other"
    other.mkdir()
    first, *rest = (finished / "metrics.jsonl").read_text().splitlines()
    start = json.loads(first)
    start["dataset"]["validation"] = "0" * 16
    del start["crc32"]
    (other / "metrics.jsonl").write_text("\n".join([json.dumps(start), *rest]) + "\n")
    assert cli.main(["compare", str(finished), str(other)]) == 1
    printed = capsys.readouterr().out
    assert "Not comparable\n  validation data: " in printed
    assert "B − A" not in printed
    assert "to reach" not in printed


def test_run_that_died(finished, tmp_path, capsys) -> None:
    died = tmp_path / "died"
    died.mkdir()
    lines = (finished / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if b'"kind": "end"' not in line][: len(lines) // 2]
    (died / "metrics.jsonl").write_bytes(b"".join(kept) + b'{"kind": "metr')
    assert cli.main(["compare", str(finished), str(died)]) == 0
    assert re.search(r"length +step 12 +step [1-9]\n", capsys.readouterr().out)


def test_trials_of_another_program(tmp_path, capsys) -> None:
    one = write_trial(tmp_path / "3", [3.0, 2.5], objective="eval_loss", direction="minimize")
    two = write_trial(tmp_path / "4", [0.5, 0.75], objective="val/acc", direction="maximize")
    assert cli.main(["compare", str(one), str(one)]) == 0
    capsys.readouterr()
    assert cli.main(["compare", str(one), str(two)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"objective val/acc +– +0.75000\n", printed)
    assert "B: no validation loss, so it cannot be ranked" in printed


class Structure(HTMLParser):
    """Collect the tags and the attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_html_is_one_file_with_curves_and_markdown_is_escaped(tmp_path, capsys) -> None:
    odd = write_log(tmp_path / "<img src=x onerror=alert(1)>_|`b`.log", 3.9)
    paths = [str(odd), str(write_log(tmp_path / "second.log", 3.8, 9))]
    page = tmp_path / "page.html"
    assert cli.main(["compare", *paths, "--html", str(page), "--markdown"]) == 0
    text = page.read_text()
    parsed = Structure()
    parsed.feed(text)
    tags = [tag for tag, _ in parsed.tags]
    assert not {"script", "img", "link", "iframe"} & {*tags}
    assert "http:" not in text
    assert "https:" not in text
    [svg] = [attributes for _, attributes in parsed.tags if attributes.get("role") == "img"]
    assert "A from 3.9000 to 3.4000; B from 3.8000 to 3.0000" in (svg["aria-label"] or "")
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [
        attributes for tag, attributes in parsed.tags if tag == "meta"
    ]
    markdown = capsys.readouterr().out
    assert "\\<img src=x" in markdown
    assert "\\|\\`b\\`" in markdown
    assert "|  | A | B |" in markdown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{first}"], "RUN_OR_LOG: only one run to compare; name two or more"),
        (["{first}", "absent.log"], "absent.log: is not a file, a folder, or a run in"),
        (["{first}", "{first}", "--reach", "low"], "--reach: 'low' is not a loss; write it as in 3.60"),
        (["{first}", "{first}", "--html", "{folder}/absent/page.html"], "--html: "),
        (["{first}", "{first}", "--json", "--markdown"], "not allowed with"),
    ],
)
def test_invalid_input(arguments, message, logs, tmp_path, capsys) -> None:
    filled = [argument.format(first=logs[0], folder=tmp_path) for argument in arguments]
    assert cli.main(["compare", *filled]) == 2
    streams = capsys.readouterr()
    assert message in streams.err
    assert streams.out == ""
    assert len(streams.err.splitlines()) == 1


def test_five_logs_fit_a_narrow_terminal(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    paths = [str(write_log(tmp_path / f"run{n}.log", 4 + n / 7)) for n in range(5)]
    assert cli.main(["compare", *paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 60
    assert sum(line.startswith("  best validation loss") for line in lines) > 1
