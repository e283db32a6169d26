"""Weights that a run starts from were not trained on the test documents that it cuts from their source."""

from pathlib import Path

import pytest

from harness.config.compose import compose_config
from harness.core.errors import ConfigError
from harness.run.base_model import compose_base_config
from harness.run.result import RunResult
from harness.run.runner import built_run, run
from tests.data.documents import SyntheticDocuments

TINY = ["experiment=smoke", "device=cpu", "data=text", r"data.source.split_on='\n\n'", "data.sequence_length=32",
        "tokenizer=bpe", "tokenizer.vocab_size=300", "tokenizer.fit_on=all", "observers=metrics_only",
        "model.layers=1", "model.width=16", "loop.max_steps=2", "loop.evals=1", "batch.batch_size=4"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unseen")
    for number, name in enumerate(("notes", "other")):
        texts = [document.text for document in SyntheticDocuments(count=60 + number).iter_documents()]
        (folder / f"{name}.txt").write_text("\n\n".join(texts))
    return folder


def compose_tiny(folder: Path, *changes: str) -> list[str]:
    places = [f"output_dir={folder}/outputs", f"cache_dir={folder}/cache", f"tracking.uri=sqlite:///{folder}/m.db"]
    return [*TINY, *places, f"data.source.path={folder}/notes.txt", *changes]


@pytest.fixture(scope="module")
def without_test(folder: Path) -> RunResult:
    return run(compose_config(compose_tiny(folder, "name=without")))


@pytest.fixture(scope="module")
def with_test(folder: Path) -> RunResult:
    return run(compose_config(compose_tiny(folder, "data.test_share=0.2", "name=with")))


@pytest.mark.parametrize(
    "start",
    [
        ["start=resume", "start.run={run}", "loop.max_steps=4"],
        ["start=warm", "start.source={run}"],
        ["start=warm", "start.source={run}/checkpoints/best/model.safetensors"],
    ],
)
@pytest.mark.parametrize("is_same", [True, False])
def test_weights_of_a_run_have_the_same_cut(start, is_same, folder, without_test, with_test) -> None:
    weights = with_test if is_same else without_test
    changes = [*(one.format(run=weights.folder) for one in start), "data.test_share=0.2"]
    cfg = compose_config(compose_tiny(folder, *changes))
    if is_same:
        with built_run(cfg) as (_, parts, _):
            assert parts.task.dataset["digest.test"]
    else:
        message = (
            rf"^data.test_share: 0.2: {weights.folder.name}, .* \(data.val_fraction=0.1 data.test_share=null\) and"
        )
        with pytest.raises(ConfigError, match=message):
            run(cfg)


def test_weights_trained_on_other_data_or_by_others_may_be_used(folder, without_test, tmp_path) -> None:
    source, weights = without_test.folder, tmp_path / "weights.safetensors"
    weights.write_bytes((source / "checkpoints" / "best" / "model.safetensors").read_bytes())
    for changes in (
        [f"start.source={source}", f"data.source.path={folder}/other.txt", "data.test_share=0.2"],
        [f"start.source={weights}", "data.test_share=0.2"],
        [f"start.source={source}", f"data.test={folder}/other.txt"],
        [f"start.source={source}"],
    ):
        with built_run(compose_config(compose_tiny(folder, "start=warm", *changes))):
            pass


def test_base_model_of_the_same_source_is_trained_without_the_test_documents() -> None:
    def read_base(*overrides: str) -> dict:
        return dict(compose_base_config("pydoc_base", compose_config(overrides)).data)

    usual = read_base()
    assert read_base("data=pydoc_text", "data.val_fraction=0.1") == usual  # the base is shared
    held_out = read_base("data=pydoc_text", "data.val_fraction=0.1", "data.test_share=0.2")
    assert held_out == {**usual, "val_fraction": 0.1, "test_share": 0.2}
    assert read_base("data=pydoc_qa", "data.test_share=0.2") == usual  # another source, although made of the same texts
