"""The Fourier neural operator end to end on a few fields: training, evaluation, figures and resume."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import cli
from harness.config.compose import compose_config
from harness.config.validation import validate_config
from harness.core.distributed import ProcessGroup
from harness.core.errors import ConfigError
from harness.data.operator_data import FieldPairs, build_field_data
from harness.run.build import build_parts, build_task
from harness.run.dry_run import dry_run
from harness.run.runner import run
from harness.tasks.operator import OperatorTask, build_operator_task
from harness.training.evaluation import evaluate
from harness.training.operator_losses import relative_h1, relative_l2
from tests.conftest import ROOT
from tests.run.test_run import read_record, read_series
from tests.toy_task import CPU

TINY = ["experiment=operator", "device=cpu", "observers=metrics_only", "data.train=32", "data.held_out=5",
        "data.resolution=8", "data.finer=16", "data.eval_batch_size=2", "model.modes=4", "model.width=8",
        "model.layers=2", "batch.batch_size=8", "loop.epochs=5", "loop.evals=2"]  # fmt: skip
DATA = Path(ROOT).parent / "shared" / "data" / "neuralop_pde"


@pytest.fixture(scope="module")
def task(cache_dir: Path) -> OperatorTask:
    cfg = compose_config([*TINY, f"cache_dir={cache_dir}"])
    return build_task(cfg, validate_config(cfg), ProcessGroup(torch.device("cpu")))


def test_run_records_both_errors_on_both_grids_and_baselines(places) -> None:
    result = run(compose_config([*TINY, *places, "~observers.mlflow", "observers=default", "task.loss=l2"]))
    assert result.status == "completed"
    start, *lines = read_record(result.folder)
    assert start["constants"]["zero_predictor"] == 1.0
    assert 0.1 < start["constants"]["mean_predictor"] < 0.6
    assert start["dataset"]["name"] == "Darcy"
    assert result.tokens == 5 * 32
    units = next(line["units"] for line in lines if "val/loss" in line.get("metrics", {}))
    for name, norm in {"loss": "L2", "h1": "H1", "loss_16": "L2", "h1_16": "H1"}.items():
        assert units[f"val/{name}"] == f"relative {norm} of physical fields"
        before, *_, after = read_series(result.folder, f"val/{name}")
        assert after < before
    assert read_series(result.folder, "val/loss_se")[-1] > 0
    assert read_series(result.folder, "val/loss")[-1] < 0.6
    pictures = [result.folder / "figures" / f"fields_{points}.png" for points in (8, 16)]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_test_share_is_scored_on_both_grids(places) -> None:
    changes = ["data.test_share=0.25", "score_test=true", "loop.epochs=2"]
    result = run(compose_config([*TINY, *places, "~observers.mlflow", "observers=default", *changes]))
    assert result.status == "completed"
    start, *_, end = read_record(result.folder)
    assert {f"digest.{name}" for name in ("train", "validation", "test")} <= start["dataset"].keys()
    assert result.tokens == 2 * 24
    for name in ("loss", "h1", "loss_16", "h1_16", "loss_se"):
        assert len(read_series(result.folder, f"test/{name}")) == 1
    assert read_series(result.folder, "test/loss") == [result.test_loss] == [end["test_loss"]]
    assert result.test_loss != result.best_val_loss


def test_loss_uses_normalized_and_evaluation_physical_fields(task) -> None:
    batch = task.data.train[:4]
    with torch.no_grad():
        predicted = task.model(batch.x)
        expected = relative_h1(
            (predicted - task.model.y_mean) / task.model.y_std, task.model.normalize_targets(batch.y)
        )
        assert task.compute_loss(batch).sum.item() == pytest.approx(expected.sum().item(), rel=1e-5)
        fields = task.data.held_out[0]
        errors = relative_l2(task.model(fields.x), fields.y)
    report = evaluate(task, CPU)["loss"]
    assert report.value == pytest.approx(errors.mean().item(), rel=1e-5)
    assert report.standard_error == pytest.approx(errors.std().item() / len(errors) ** 0.5, rel=1e-4)


def test_mean_predictor_is_the_mean_training_field(task) -> None:
    fields = task.data.held_out[0].y
    guess = task.data.train.y.mean(0, keepdim=True).expand_as(fields)
    errors = [(g - y).norm() / y.norm() for g, y in zip(guess, fields, strict=True)]
    assert task.constants["mean_predictor"] == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


def test_dataset_says_how_the_fields_were_read(task) -> None:
    """The axes are found from the shapes, so the header of a run shows them."""
    read = "32 samples, validation 5 on 8 and 5 on 16 · x and y of 1 and 1 channels on a grid of 8x8"
    assert task.dataset["shape"] == read


def test_batches_of_an_epoch_cover_every_sample_once(task) -> None:
    assert (task.examples, task.tokens_per_example) == (32, 1.0)
    epoch = [task.get_batch(position, 8) for position in range(0, 32, 8)]
    seen = torch.cat([batch.y for batch in epoch]).flatten(1)
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, task.data.train.y.flatten(1).tolist()))
    assert torch.equal(task.get_batch(40, 8).x, task.get_batch(40, 8).x)
    assert not torch.equal(task.get_batch(0, 8).y, task.get_batch(32, 8).y)
    assert [len(part) for part in task.split_batch(epoch[0], 3)] == [3, 3, 2]


def test_grad_norm_of_complex_parameters(task) -> None:
    task.compute_loss(task.data.train[:4]).sum.backward()
    grads = [p.grad for p in task.model.parameters()]
    parts = torch.cat([torch.view_as_real(g).flatten() if g.is_complex() else g.flatten() for g in grads])
    assert any(g.is_complex() for g in grads)
    assert torch.nn.utils.get_total_norm(grads).item() == pytest.approx(parts.norm().item(), rel=1e-5)


def test_resume_is_bit_identical(cache_dir, capsys) -> None:
    overrides = [*TINY, f"cache_dir={cache_dir}", "schedule=plateau", "schedule.patience=0"]
    assert cli.main(["verify-resume", "--steps", "3", *overrides]) == 0


@pytest.mark.parametrize("optimizer", ["muon", "adafactor"])
def test_real_optimizers_reject_complex_parameters(optimizer, places) -> None:
    with pytest.raises(ConfigError, match=r"cannot train complex parameters .*choose optimizer=adamw"):
        build_run([*TINY, *places, f"optimizer={optimizer}"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.loss=l1", "task.loss: 'l1' is not one of l2, h1"),
        ("model.modes=9", "model: modes=9 is more than the 8 points of the training grid"),
        ("data.finer=20", "data: finer=20 must be 2 or more and divide 64"),
    ],
)
def test_invalid_settings_are_rejected(override, message, places) -> None:
    with pytest.raises(ConfigError, match=message):
        build_run([*TINY, *places, override])


def build_run(overrides: list[str]) -> None:
    cfg = compose_config(overrides)
    settings, processes = validate_config(cfg), ProcessGroup(torch.device("cpu"))
    build_parts(cfg, settings, processes, build_task(cfg, settings, processes))


def test_plateau_notice_names_first_possible_cut(places, tmp_path) -> None:
    torch.save({"x": torch.rand(8, 16, 16), "y": torch.rand(8, 16, 16)}, tmp_path / "fields.pt")
    fields = f"data.train={tmp_path}/fields.pt"
    cfg = compose_config(["experiment=operator_before", fields, *places, "loop.epochs=11", "loop.evals=11"])
    settings, processes = validate_config(cfg), ProcessGroup(torch.device("cpu"))
    parts = build_parts(cfg, settings, processes, build_task(cfg, settings, processes))
    assert parts.notices == ("patience=10 allows a first cut after 12 evaluations, and the run has 11",)


@pytest.mark.parametrize("name", ["darcy", "burgers"])
def test_library_files_train(name, places) -> None:
    if not DATA.is_dir():
        pytest.skip("the library's Darcy and Burgers files are not beside the project")
    files = [f"data.train={DATA}/{name}_train_16.pt", f"data.validation=[{DATA}/{name}_test_16.pt]"]
    sizes = ["model.width=8", "model.layers=2", "data.limit=256", "batch.batch_size=16"]
    sizes += ["loop.epochs=4", "loop.evals=1"]
    result = run(
        compose_config(["experiment=operator", "observers=metrics_only", "data=pde_files", *files, *sizes, *places])
    )
    losses = read_series(result.folder, "val/loss")
    assert losses[-1] < 0.7 * losses[0]


def test_constant_fields_are_rejected() -> None:
    flat = FieldPairs(torch.randn(8, 1, 16, 16), torch.ones(8, 1, 16, 16))
    data = partial(build_field_data, flat, [flat], "", "", "", 4, False)
    with pytest.raises(ValueError, match="the training fields y are the same everywhere"):
        build_operator_task(model=None, data=lambda seed, cache_dir: data(seed=seed), loss="l2", seed=0, cache_dir=None)


def test_low_precision_is_rejected(places) -> None:
    with pytest.raises(ConfigError, match=r"precision\.autocast: the model has complex parameters"):
        dry_run(compose_config([*TINY, "precision=bf16", *places]))


@pytest.mark.parametrize("shape", [(20,), (12, 9), (6, 5, 4)], ids=str)
def test_fields_of_every_dimension_train(shape: tuple[int, ...], places, tmp_path) -> None:
    grids = torch.meshgrid(*(torch.linspace(0, 1, size) for size in shape), indexing="ij")
    for number, split in enumerate(("train", "validation", "test")):
        scale = torch.rand(8, *[1] * len(shape), generator=torch.Generator().manual_seed(number)) + 1
        x = scale * sum(grids) + 1
        np.savez(tmp_path / f"{split}.npz", x=torch.stack([x, x**2], -1).numpy(), y=(x**2).numpy())
    files = [f"data.{split}={tmp_path}/{split}.npz" for split in ("train", "validation", "test")]
    sizes = ["model.width=4", "model.layers=1", "model.modes=4", "batch.batch_size=8", "loop.epochs=8", "loop.evals=1"]
    overrides = ["experiment=operator", "data=pde_files", *files, *sizes, "~observers.mlflow", "device=cpu", *places]
    result = run(compose_config(overrides))
    losses = read_series(result.folder, "val/loss")
    assert losses[-1] < losses[0]
    if len(shape) == 1:
        without_test = run(compose_config([*overrides, "data.test=null"]))
        assert read_series(without_test.folder, "val/loss") == losses
    tags = read_record(result.folder)[0]["tags"]
    assert {f"data.digest.{split}" for split in ("train", "validation", "test")} <= tags.keys()
    assert list((result.folder / "figures").glob("fields_*.png"))
