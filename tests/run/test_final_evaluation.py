"""`score_test=true`: the loss of the best weights on the test split, at the end of a run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config.compose import compose_config
from harness.core.checkpoint_names import checkpoint_name
from harness.core.errors import ConfigError
from harness.core.events import EvalEnd, Event, StepEnd
from harness.record.example_losses import TEST_EXAMPLES, read_example_losses
from harness.record.run_listing import read_run_overview
from harness.record.run_lookup import RunFolder
from harness.run.result import RunResult
from harness.run.resume import NoStepLeft
from harness.run.runner import built_run, run
from harness.run.unrecorded_end import complete_record
from harness.training.checkpoint import WEIGHTS_FILE, load_weights, read_best_weights
from harness.training.evaluation import evaluate
from harness.training.policies import Decision, Policy, Stop
from tests.run.test_run import read_record
from tests.run.test_unseen_test import compose_tiny

SCORED = ["data.test_share=0.2", "score_test=true", "record_examples=true"]
RISING = ["loop.max_steps=4", "loop.evals=4", "optimizer=adamw", "optimizer.lr=1.0", "schedule=linear",
          "schedule.warmup_ratio=0.99"]  # fmt: skip
"""The best loss is not the last one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.data.documents import SyntheticDocuments

    folder = tmp_path_factory.mktemp("final")
    texts = [document.text for document in SyntheticDocuments(count=60).iter_documents()]
    (folder / "notes.txt").write_text("\n\n".join(texts))
    return folder


def run_tiny(folder: Path, *changes: str, policies: tuple[Policy, ...] = ()) -> RunResult:
    return run(compose_config(compose_tiny(folder, *changes)), policies)


def read_test_metrics(result: RunResult) -> dict[str, Any]:
    """Return the rows of the record about the test split as one."""
    rows = [entry for entry in read_record(result.folder) if any("test/" in name for name in entry.get("metrics", {}))]
    [row] = rows
    return row


def rescore(result: RunResult, cfg_changes: list[str], folder: Path) -> float:
    """Return the loss of a run's best weights on its test documents, given as validation files to another task."""
    with built_run(compose_config(compose_tiny(folder, *cfg_changes))) as (_, parts, processes):
        parts.task.model.load_state_dict(read_best_weights(result.folder / "checkpoints"))
        task: Any = parts.task
        return evaluate(task.make_test_task(), processes, parts.plan.autocast)["loss"].value


def test_scoring_changes_neither_training_nor_validation(folder: Path) -> None:
    changes = [*RISING, "model.dropout=0.1", "data.test_share=0.2"]
    without, scored = run_tiny(folder, *changes), run_tiny(folder, *changes, *SCORED)
    assert without.test_loss is None
    assert scored.test_loss is not None
    assert (scored.best_val_loss, scored.best_step, scored.tokens) == (
        without.best_val_loss,
        without.best_step,
        without.tokens,
    )

    def read_curves(result: RunResult) -> list[Any]:
        rows = [entry for entry in read_record(result.folder) if entry["kind"] == "metrics"]
        names = ("train/loss", "train/grad_norm", "val/loss", "val/loss_se", "val/best_loss")
        return [[row["step"], *(row["metrics"].get(name) for name in names)] for row in rows if "val/loss" in
                row["metrics"] or "train/loss" in row["metrics"]]  # fmt: skip

    assert read_curves(scored) == read_curves(without)
    for name in (checkpoint_name(4), "best"):
        mine, others = (load_weights(one.folder / "checkpoints" / name / WEIGHTS_FILE) for one in (scored, without))
        assert all(torch.equal(mine[key], others[key]) for key in others)
    assert "test_loss" in read_record(without.folder)[-1]
    assert read_record(without.folder)[-1]["test_loss"] is None


def test_best_weights_are_scored_and_recorded(folder: Path) -> None:
    changes = [*RISING, *SCORED]
    result = run_tiny(folder, *changes)
    assert result.best_step < result.step  # the last weights are not the best ones
    assert result.test_loss == rescore(result, changes, folder)
    row, end = read_test_metrics(result), read_record(result.folder)[-1]
    assert (row["step"], row["tokens"], end["test_loss"]) == (4, result.tokens, result.test_loss)
    assert row["metrics"]["test/loss"] == result.test_loss != result.best_val_loss
    assert row["metrics"]["test/loss_se"] > 0
    assert row["metrics"]["test/coverage"] == 1
    assert row["metrics"]["test/duplicates"] == 0
    assert row["units"]["test/loss"] == "nats/token"
    assert row["units"]["test/coverage"] == "fraction of test tokens"
    examples = read_example_losses(result.folder / TEST_EXAMPLES)
    assert examples.sums.sum() / examples.counts.sum() == pytest.approx(result.test_loss)
    assert examples.validation == read_record(result.folder)[0]["dataset"]["digest.test"]
    assert read_run_overview(RunFolder(result.folder)).test_loss == result.test_loss


@pytest.mark.parametrize(
    "changes",
    [
        ["optimizer=schedule_free", "schedule=constant", "loop.max_steps=6", "loop.evals=3"],
        ["lora=all_linear", "loop.save_every=1", "loop.max_steps=5", "loop.keep_checkpoints=1"],
        [*RISING, "loop.patience=1", "loop.keep_checkpoints=1"],
        pytest.param(["precision=bf16", "loop.max_steps=4", "loop.evals=2"], marks=pytest.mark.slow),
        ["data.layout=packed", "data.val_fraction=null", "data.validation={other}"],
    ],
    ids=["schedule-free", "lora", "patience", "bf16", "validation files"],
)
def test_best_weights_are_scored_whatever_the_run(changes: list[str], folder: Path) -> None:
    (folder / "other.txt").write_text("bari gola mu\n\nta to te" * 20)
    changes = [*SCORED, *(change.format(other=folder / "other.txt") for change in changes)]
    result = run_tiny(folder, *changes)
    assert result.status == "completed"
    if "lora=all_linear" in changes:
        changes.remove("lora=all_linear")
        with built_run(compose_config(compose_tiny(folder, *changes, "lora=all_linear"))) as (_, parts, processes):
            parts.state.model.load_state_dict(read_best_weights(result.folder / "checkpoints"))
            expected = evaluate(parts.test_task, processes)["loss"].value  # type: ignore[arg-type]
    else:
        expected = rescore(result, changes, folder)
    assert result.test_loss == expected


def stop_at(step: int, status: Any) -> Policy:
    def policy(event: Event) -> Decision:
        return Stop(status, "") if isinstance(event, StepEnd) and event.step == step else None

    return policy


@pytest.mark.parametrize("status", ["diverged", "pruned", "interrupted"])
def test_run_that_is_not_completed_has_no_test_loss(status: str, folder: Path) -> None:
    result = run_tiny(folder, *SCORED, "loop.max_steps=4", policies=(stop_at(2, status),))
    assert (result.status, result.test_loss) == (status, None)
    assert read_record(result.folder)[-1]["test_loss"] is None


def test_resumed_run_scores_the_best_weights_of_the_earlier_one(folder: Path) -> None:
    changes = [*RISING, *SCORED]
    straight = run_tiny(folder, *changes)
    first = run_tiny(folder, *changes, policies=(stop_at(3, "interrupted"),))
    assert first.best_step == straight.best_step
    resumed = run_tiny(folder, *changes, "start=resume", f"start.run={first.folder}")
    assert (resumed.best_step, resumed.test_loss) == (straight.best_step, straight.test_loss)


def test_completed_run_can_be_scored_later(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [*RISING, "data.test_share=0.2"]
    first, expected = run_tiny(folder, *changes), run_tiny(folder, *changes, *SCORED)
    again = [*changes, "start=resume", f"start.run={first.folder}"]
    with pytest.raises(NoStepLeft):
        run_tiny(folder, *again)
    scored = run_tiny(folder, *again, *SCORED, "observers=default", "~observers.mlflow")
    assert (scored.status, scored.step, scored.test_loss) == ("completed", 4, expected.test_loss)
    assert (scored.best_val_loss, scored.best_step) == (first.best_val_loss, first.best_step)
    assert [entry["step"] for entry in read_record(scored.folder) if entry["kind"] == "metrics"] == [0, 4]
    said = " ".join(capsys.readouterr().out.split())
    assert "all 4 steps are taken: only the test split is scored" in said
    assert f"(weights of step {first.best_step})" in said
    assert f"test loss {scored.test_loss:.4g}" in said
    with pytest.raises(ConfigError, match=r"^data.test_share: 0.3: .*data.test_share=0.2\) and may have been trained"):
        run_tiny(folder, *again, *SCORED, "data.test_share=0.3")


def test_run_that_died_while_it_was_scored_is_not_completed(folder: Path) -> None:
    changes = [*RISING, *SCORED]
    result = run_tiny(folder, *changes)
    path = result.folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    test_row = next(number for number, line in enumerate(lines) if b"test/loss" in line)
    path.write_bytes(b"".join(lines[:test_row]))
    assert complete_record(result.folder) is None
    scored = run_tiny(folder, *changes, "start=resume", f"start.run={result.folder}")
    assert scored.test_loss == result.test_loss
    path.write_bytes(b"".join(lines[: test_row + 1]))
    completed = complete_record(result.folder)
    assert completed is not None
    assert completed.test_loss == result.test_loss == read_record(result.folder)[-1]["test_loss"]


def test_damaged_best_weights_fail_the_run_and_are_named(folder: Path) -> None:
    def damage(event: Event) -> Decision:
        if isinstance(event, EvalEnd) and event.step == 4:
            best = next((folder / "damaged").glob("*/checkpoints/best")) / WEIGHTS_FILE
            best.write_bytes(best.read_bytes()[:-1] + b"x")
        return None

    result = run_tiny(folder, *RISING, *SCORED, f"output_dir={folder}/damaged", policies=(damage,))
    assert (result.status, result.test_loss) == ("failed", None)
    assert f"best/{WEIGHTS_FILE}" in result.reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["data.test_share=null"],
            r"^score_test: true: the data has no test split; set data.test_share=0.1 or data.test=",
        ),
        (["data=pydoc_qa"], r"^score_test: true: the data has no test split; set data.test_share=0.1, or leave"),
        (["data.test_share=0.1", "data.test=x.txt"], "test_share=0.1 does not go with test"),
        (["score_test=1"], "^score_test: 1 must be true or false"),
    ],
)
def test_test_split_is_needed(changes: list[str], message: str, folder: Path) -> None:
    overrides = [one for one in compose_tiny(folder) if not ("data=pydoc_qa" in changes and one.startswith("data."))]
    outputs = set((folder / "outputs").glob("*"))
    with pytest.raises(ConfigError, match=message):
        run(compose_config([*overrides, "score_test=true", *changes]))
    assert set((folder / "outputs").glob("*")) == outputs
