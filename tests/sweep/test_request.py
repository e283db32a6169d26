"""A sweep stores its request so that workers in another folder understand it."""

from pathlib import Path

from harness.run.provenance import current_command
from tests.sweep.tiny_sweeps import TINY_WITHOUT_LORA, read_tiny_request


def test_paths_of_the_command_are_stored_as_absolute_ones(places, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.md").write_text("Some notes.\n" * 50)
    given = ["data=text", "data.source.path=notes.md", "tokenizer=bpe"]
    request = read_tiny_request(*TINY_WITHOUT_LORA, *places, *given, "output_dir=results")
    path = f"data.source.path={tmp_path}/notes.md"
    assert path in request.spec.arguments
    assert path in request.space.fixed
    assert request.cfg.data.source.path == f"{tmp_path}/notes.md"
    monkeypatch.setattr("sys.argv", ["run.py", "-m", *given])
    assert path in current_command(request.spec.arguments)
    assert "notes.md" not in current_command(request.spec.arguments).replace(path, "")
