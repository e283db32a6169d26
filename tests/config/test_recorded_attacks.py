"""The folder of a run that somebody else recorded runs nothing, whatever its config.yaml says."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from harness import cli
from harness.commands.export import _copy_tokenizer
from harness.config.compose import MAX_CONFIG_BYTES, compose_config, load_config
from harness.core.errors import ConfigError
from harness.run.load import load_recorded_run
from harness.run.reproduce import reproduce_overrides
from harness.run.runner import run
from harness.training.checkpoint import STATE_FILE
from tests.attack_target import AttackTarget, Bomb, number_attacks
from tests.config.test_composed_attacks import check_refused
from tests.conftest import run_main

TINY_TEXT = [
    "experiment=smoke", "device=cpu", "data=text", "tokenizer=bpe", "tokenizer.vocab_size=260",
    "data.sequence_length=8", "model.layers=1", "model.width=8", "model.heads=1", "batch.batch_size=1",
    "loop.max_steps=1", "loop.evals=1", "observers=metrics_only",
]  # fmt: skip
REMOTE_CODE = "{_target_: transformers.models.auto.configuration_auto.AutoConfig.from_pretrained, "
REMOTE_CODE += "pretrained_model_name_or_path: RUN, trust_remote_code: true}"
REMOVE = "{_target_: harness.data.cache.ensure_cached, folder: VICTIM, "
REMOVE += "write: {_target_: harness.data.sources.Document, _partial_: true}}"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)

# What is merged into the recorded configuration; a text replaces it.
RECORDED = {
    "code of the run's folder below the model": {"model": {"dropout": REMOTE_CODE}},
    "code of the run's folder as the model": {"model": REMOTE_CODE},
    "a function that removes folders": {"model": {"dropout": REMOVE}},
    "a function that removes folders, below the adapters": {"lora": {"alpha": REMOVE}},
    "another adapter": {"lora": {"_target_": "evil.Component"}},
    "another model": {"model": {"_target_": "evil.Component"}},
    "a model of another place": {"model": {"_target_": "harness.data.sources.TextFiles"}},
    "a module behind ours": {"model": {"_target_": "harness.models.pretrained.torch.load"}},
    "in a list": {"model": {"extra": "[1, {_target_: evil.run}]"}},
    "deeply nested": {"model": {"extra": "{a: {b: {c: {d: [{_target_: evil.run}]}}}}"}},
    "in a section that is not read": {"observers": {"x": "{_target_: evil.Component}"}},
    "in a section of Hydra": {"hydra": "{callbacks: {x: {_target_: evil.Component}}}"},
    "positional arguments": {"model": {"_args_": "[1]"}},
    "a whitelist": {"model": {"_execution_whitelist_": "[os.system]"}},
    "a conversion": {"model": {"_convert_": "all"}},
    "a special key alone": {"batch": {"_partial_": "true"}},
    "a partial that is no bool": {"model": {"_partial_": "[1]"}},
    "a variable of the environment": {"model": {"_target_": "${oc.env:ATTACK_FILE}"}},
    "a secret of the environment": {"name": "${oc.env:HOME}"},
    "a node made by a resolver": {"model": {"dropout": '${oc.create:"{_target_: evil.run}"}'}},
    "a reference to another node": {"more": "{x: 1}", "model": {"dropout": "${more}"}},
    "an alias bomb": BOMB,
    "an alias": "model: &a {_target_: harness.models.gpt.GPT}\nlora: *a\n",
    "nested without end": "model: " + "[" * 5000 + "]" * 5000,
    "a huge file": "model: " + "x" * MAX_CONFIG_BYTES,
    "an object of Python": "model: !!python/object/apply:os.system ['touch MARKER']\n",
    "a new object of Python": "model: !!python/object/new:evil.Component []\n",
    "a module of Python": "model: !!python/module:evil\n",
    "a name of Python": "model: !!python/name:evil.run\n",
    "a list": "- {_target_: evil.run}\n",
    "two documents": "model: {}\n---\nmodel: {_target_: evil.run}\n",
    "a date": "model: 2020-01-01\n",
    "no text": "model: \x00\n",
    "a number with many digits": "model: " + "9" * 5000,
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    """Train one step and return the run's folder."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "text.txt").write_text("\n".join(f"line {number} of a text" for number in range(300)))
    places = [f"output_dir={folder}/outputs", f"cache_dir={cache_dir}", f"data.source.path={folder}/text.txt"]
    result = run(compose_config([*TINY_TEXT, *places, f"tracking.uri=sqlite:///{folder}/m.db"]))
    assert result.status == "completed"
    return result.folder


@pytest.fixture
def stolen(recorded: Path, target: AttackTarget) -> Path:
    """Return a copy of the run that may be tampered with; its folder holds code that leaves the marker."""
    folder = target.folder / "stolen"
    shutil.copytree(recorded, folder)
    (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "evil.Component"}, "model_type": "x"}))
    shutil.copy(target.folder / "evil.py", folder / "evil.py")
    return folder


def tamper(folder: Path, target: AttackTarget, change: dict | str) -> None:
    """Merge `change`, whose texts are YAML, into the recorded configuration."""
    file = folder / "config.yaml"
    if isinstance(change, str):
        file.write_text(target.fill_in(change))
        return
    cfg = yaml.safe_load(file.read_text())
    for section, edit in change.items():
        if isinstance(edit, str):
            cfg[section] = yaml.safe_load(target.fill_in(edit).replace("RUN", str(folder)))
        else:
            values = {
                key: yaml.safe_load(target.fill_in(text).replace("RUN", str(folder))) for key, text in edit.items()
            }
            cfg[section] = {**(cfg.get(section) or {}), **values}
    file.write_text(yaml.safe_dump(cfg))


def test_a_recorded_configuration_loads_as_it_was_written(recorded: Path) -> None:
    assert load_config(recorded / "config.yaml") == OmegaConf.load(recorded / "config.yaml")


@pytest.mark.parametrize("change", number_attacks(RECORDED))
def test_attack_in_a_recorded_configuration(change, stolen: Path, target: AttackTarget) -> None:
    tamper(stolen, target, change)
    with pytest.raises(ConfigError) as error:
        load_recorded_run(str(stolen))
    target.check_untouched()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


BELOW_THE_MODEL = RECORDED["code of the run's folder below the model"]
READERS = ["sample RUN text", "export RUN --output FOLDER/out", "blimp RUN --data RUN/pairs.jsonl", "prescribe RUN",
           "rescue RUN --to FOLDER/rescue"]  # fmt: skip
STARTS = [
    "start=warm start.source=RUN",
    pytest.param("start=warm start.source=RUN lora=all_linear", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("command", READERS)
def test_attack_through_a_command_that_reads_a_run(command, stolen, target, tmp_path, capfd) -> None:
    tamper(stolen, target, BELOW_THE_MODEL)
    pair = {"sentence_good": "a", "sentence_bad": "b", "UID": "x", "linguistics_term": "x", "field": "x"}
    (stolen / "pairs.jsonl").write_text(json.dumps(pair))
    before = sorted(path.name for path in target.folder.rglob("*"))
    status = cli.main(target.fill_in(command).replace("RUN", str(stolen)).split())
    check_refused(status, capfd.readouterr().err, target, tmp_path)
    assert sorted(path.name for path in target.folder.rglob("*")) == before


@pytest.mark.parametrize("typed", STARTS)
def test_attack_through_a_warm_start(typed, stolen, target, places, tmp_path, monkeypatch, capfd) -> None:
    tamper(stolen, target, BELOW_THE_MODEL)
    (target.folder / "text.txt").write_text("a line of a text\n" * 100)
    data = [f"data.source.path={target.folder}/text.txt"]
    status = run_main(monkeypatch, *TINY_TEXT, *places, *data, *typed.replace("RUN", str(stolen)).split())
    check_refused(status, capfd.readouterr().err, target, tmp_path)


def test_overrides_that_a_run_recorded_import_no_package(stolen: Path, target: AttackTarget) -> None:
    record = stolen / "metrics.jsonl"
    lines = record.read_text().splitlines()
    start = {
        **json.loads(lines[0]),
        "overrides": ["hydra.searchpath=[pkg://evil]", "optimizer._target_=evil.Component"],
    }
    record.write_text("\n".join([json.dumps(start), *lines[1:]]))
    with pytest.raises(ConfigError, match="pkg://evil would import evil, which is not trusted"):
        reproduce_overrides(stolen)
    target.check_untouched()


def test_attack_through_the_state_of_a_resumed_run(stolen, target, places, tmp_path, monkeypatch, capfd) -> None:
    for checkpoint in (stolen / "checkpoints").glob("*/checkpoint.json"):
        state = checkpoint.parent / STATE_FILE
        torch.save({"optimizer": Bomb(target)}, state)
        summary = json.loads(checkpoint.read_text())
        summary["sha256"][STATE_FILE] = hashlib.sha256(state.read_bytes()).hexdigest()
        checkpoint.write_text(json.dumps(summary))
    (target.folder / "text.txt").write_text("a line of a text\n" * 100)
    more = [f"data.source.path={target.folder}/text.txt", "start=resume", f"start.run={stolen}", "loop.max_steps=2"]
    status = run_main(monkeypatch, *TINY_TEXT, *places, *more)
    check_refused(status, capfd.readouterr().err, target, tmp_path)


@pytest.mark.parametrize("name", ["weights.pt", "pytorch_model.bin"])
def test_attack_through_pickled_weights(name, target, places, tmp_path, monkeypatch, capfd) -> None:
    source = target.folder / "weights"
    source.mkdir()
    torch.save({"weight": Bomb(target)}, source / name)
    (target.folder / "text.txt").write_text("a line of a text\n" * 100)
    start = source / name if name.endswith(".pt") else source
    more = [f"data.source.path={target.folder}/text.txt", "start=warm", f"start.source={start}"]
    status = run_main(monkeypatch, *TINY_TEXT, *places, *more)
    check_refused(status, capfd.readouterr().err, target, tmp_path)


def test_an_export_leaves_out_code_and_links_beside_the_tokenizer(
    recorded: Path, stolen: Path, target, tmp_path
) -> None:
    tokenizer = stolen / "checkpoints" / "tokenizer"
    (tokenizer / "evil.py").write_text("code")
    (tokenizer / "vocab.txt").symlink_to(target.victim / "file.txt")
    _copy_tokenizer(load_recorded_run(str(stolen)), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
