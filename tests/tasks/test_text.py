"""The description of a task's data, by which runs are compared."""

from pathlib import Path

from harness.tasks.text import TextTask
from tests.data.documents import SyntheticDocuments
from tests.data.test_tokens import make_token_data


def describe(folder: Path, **changes: object) -> dict[str, str]:
    return dict(TextTask(model=None, data=make_token_data(folder, **changes)).dataset)


def test_digests_of_validation_data_and_tokenizer_depend_on_these_alone(tmp_path) -> None:
    first = describe(tmp_path, layout="packed")
    same = describe(tmp_path, layout="packed", sequence_length=8)
    assert first == same
    other_text = describe(tmp_path, source=SyntheticDocuments(count=30, longest=20, seed=5), layout="packed")
    assert other_text["validation"] != first["validation"]
    assert other_text["validation_size"] != first["validation_size"]
