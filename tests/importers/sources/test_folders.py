"""Folders: one log of any name, many logs, what Lightning, transformers, W&B and ultralytics leave."""

import json
import re
from pathlib import Path

import pytest

from harness.importers import read_histories, read_history

CSV = "epoch,step,train_loss,val_loss\n0,10,3.0,\n0,20,2.5,\n0,20,,2.75\n1,30,2.25,\n"
TEXT = "\n".join(f"step {at} loss {4 - at / 10}" for at in range(1, 9))


def write_files(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def state(*steps: int) -> str:
    history = [{"step": step, "loss": 3 - step / 1000, "epoch": step / 100} for step in steps]
    return json.dumps({"global_step": steps[-1], "max_steps": 900, "log_history": history})


ONE_LOG = {
    "a log": ({"my.log": TEXT}, "my", 8),
    "a log without a suffix": ({"slurm-4711": TEXT}, "slurm-4711", 8),
    "a log below": ({"logs/run/train.out": TEXT}, "train", 8),
    "a log beside other files": (
        {"out.txt": TEXT, "config.json": '{"lr": 1}', "requirements.txt": "torch\n", "notes.md": "-"}, "out", 8,
    ),
    "Lightning": ({"lightning_logs/version_0/metrics.csv": CSV, "lightning_logs/version_0/hparams.yaml": "lr: 1"},
                  "version_0", 3),
    "ultralytics": ({"results.csv": " epoch, train/box_loss, train/cls_loss\n 1, 1.5, 2\n 2, 1.25, 1\n"}, "run", 2),
    "W&B": ({"files/output.log": TEXT, "files/wandb-summary.json": '{"loss": 1}', "files/a.yaml": "a: 1"}, "run", 8),
    "W&B in a project": ({"wandb/latest-run/files/output.log": TEXT, "train.py": "loss = 3"}, "run", 8),
    "LLaMA-Factory": ({"trainer_log.jsonl": "\n".join(
        f'{{"current_steps": {at}, "total_steps": 99, "loss": 2.5, "epoch": 0.1}}' for at in (5, 10)),
        "all_results.json": '{"train_loss": 1.5}', "README.md": "# A model\n"}, "run", 2),
}  # fmt: skip


@pytest.mark.parametrize(("files", "name", "n_losses"), ONE_LOG.values(), ids=ONE_LOG)
def test_folder_of_one_log(files: dict[str, str], name: str, n_losses: int, tmp_path: Path) -> None:
    history = read_history(write_files(tmp_path / "run", files))
    assert len(history["train/loss"]) == n_losses
    assert history.facts.name == name


def test_checkpoint_with_most_steps_is_read(tmp_path: Path) -> None:
    """Not the one whose file is newest: copying a folder changes the times."""
    files = {f"checkpoint-{step}/trainer_state.json": state(*range(100, step + 1, 100)) for step in (900, 1000, 200)}
    folder = write_files(tmp_path / "run", files)
    assert read_history(folder).last_step == 1000
    write_files(folder, {"trainer_state.json": state(100, 200, 300)})
    assert read_history(folder).last_step == 1000
    write_files(folder, {"trainer_state.json": state(*range(100, 1101, 100))})
    assert read_history(folder).last_step == 1100


def test_folder_of_many_logs_is_read_whole(tmp_path: Path) -> None:
    files = {"a.log": TEXT, "b.csv": CSV, "sub/c.log": TEXT, "broken.json": '{"loss": [1, 2', "empty.txt": ""}
    histories = read_histories(write_files(tmp_path / "logs", {name: files[name] for name in files if "/" not in name}))
    assert [history.facts.name for history in histories] == ["a.log", "b.csv"]
    assert [len(history["train/loss"]) for history in histories] == [8, 3]
    notes = "; ".join(histories[0].facts.notes)
    assert re.fullmatch(
        r"not read: .*broken\.json: JSON that is cut off .*; not read: .*empty\.txt: the file is empty; wait .*", notes
    )


def test_versions_of_lightning_are_runs(tmp_path: Path) -> None:
    files = {f"lightning_logs/version_{at}/metrics.csv": CSV for at in range(3)}
    histories = read_histories(write_files(tmp_path, files))
    assert [history.facts.name for history in histories] == [f"lightning_logs/version_{at}" for at in range(3)]


def test_two_runs_in_one_of_many_logs(tmp_path: Path) -> None:
    rows = "".join(f"{run},{step},{3 - step / 10}\n" for run in "xy" for step in range(9))
    histories = read_histories(write_files(tmp_path, {"a.csv": f"run,step,loss\n{rows}", "b.log": TEXT}))
    assert [history.facts.name for history in histories] == ["a.csv x", "a.csv y", "b.log"]


def test_folder_without_a_log_says_which_files_it_has_tried(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "run", {"a.txt": "hello", "b.json": '{"a": 1}'})
    with pytest.raises(ValueError, match=r"run: contains no log that can be read: .*a\.txt: .* \(and 1 more files?\)"):
        read_histories(folder)


def test_folder_of_too_many_logs_is_refused(tmp_path: Path) -> None:
    folder = write_files(tmp_path, {f"{at}.log": TEXT for at in range(70)})
    with pytest.raises(ValueError, match="contains 70 logs; pass the paths of some of them"):
        read_histories(folder)


@pytest.mark.parametrize(
    ("parts", "tag"),
    [
        ({"train": 3.0, "validation": 3.5}, "epoch_loss"),
        ({"train": 3.0, "val": 3.5}, "loss"),
        ({"Loss_train": 3.0, "Loss_val": 3.5}, "Loss"),
    ],
)
def test_event_files_of_each_split_are_one_run(parts: dict[str, float], tag: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    for name, start in parts.items():
        with SummaryWriter(str(tmp_path / "run" / name)) as writer:
            for step in range(4):
                writer.add_scalar(tag, start - step / 4, step)
    for folder in (tmp_path / "run", tmp_path):
        history = read_history(folder)
        assert history["train/loss"].values.tolist() == [3.0, 2.75, 2.5, 2.25]
        assert history["val/loss"].values.tolist() == [3.5, 3.25, 3.0, 2.75]
        assert history.facts.steps_unit == ("epochs" if tag == "epoch_loss" else "steps")


def test_run_in_a_file_store_of_mlflow(tmp_path: Path) -> None:
    def lines(start: float, steps: range) -> str:
        return "".join(f"{1937901600000 + step} {start - step / 10} {step}\n" for step in steps)

    files = {"meta.yaml": "run_id: 4f", "params/lr": "0.1", "metrics/train/loss": lines(3, range(9))}
    files |= {"metrics/val_loss": lines(4, range(0, 9, 4)), "metrics/accuracy": lines(1, range(9))}
    folder = write_files(tmp_path / "4f", files)
    history = read_history(folder)
    assert history["train/loss"].steps.tolist() == list(range(9))
    assert history["val/loss"].values.tolist() == [4.0, 3.6, 3.2]
    assert read_history(folder / "metrics" / "val_loss")["val/loss"].steps.tolist() == [0, 4, 8]
    with pytest.raises(ValueError, match="the metric 'accuracy', which is no loss; give the folder of the run"):
        read_history(folder / "metrics" / "accuracy")
