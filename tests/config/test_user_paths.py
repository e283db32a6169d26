"""Paths that users give are recorded as absolute ones, and so are the names of runs."""

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from harness.config.compose import compose_config
from harness.config.user_paths import make_overrides_absolute, make_paths_absolute
from harness.core.errors import ConfigError
from harness.core.paths import project_dir
from tests.record.run_folders import write_run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which has some files."""
    for name in ("notes.md", "data/a.pt", "data/b.pt", "model/config.json", "it's/odd name.md", "text/x"):
        (tmp_path / "home" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / name).touch()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def make_absolute(*overrides: str) -> tuple[DictConfig, list[str]]:
    cfg, changed = make_paths_absolute(compose_config(overrides))
    return cfg, make_overrides_absolute(overrides, cfg, changed)


@pytest.mark.parametrize(
    ("overrides", "key", "value", "last"),
    [
        (["data=text", "data.source.path=notes.md"], "data.source.path", "{home}/notes.md",
         "data.source.path={home}/notes.md"),
        (["data=text", "data.source.path=../home/notes.md"], "data.source.path", "{home}/notes.md",
         "data.source.path={home}/notes.md"),
        (["data=text", "data.source.path='*.md'"], "data.source.path", "{home}/*.md", "data.source.path={home}/*.md"),
        (["data=text", r"data.source.path='it\'s/odd name.md'"], "data.source.path", "{home}/it's/odd name.md",
         r"data.source.path='{home}/it\'s/odd name.md'"),
        (["data=text", "data.source={path:notes.md}"], "data.source.path", "{home}/notes.md",
         "data.source.path={home}/notes.md"),
        (["experiment=operator", "data=pde_files", "data.train=data/a.pt", "data.validation=[data/b.pt]"],
         "data.validation", ["{home}/data/b.pt"], "data.validation=[{home}/data/b.pt]"),
        (["experiment=operator", "data=pde_files", "data.train={x:data/a.pt,y:data/b.pt}"], "data.train.y",
         "{home}/data/b.pt", "data.train.y={home}/data/b.pt"),
        (["model=hf", "model.name=model"], "model.name", "{home}/model", "model.name={home}/model"),
        (["model=hf", "model.name=model"], "tokenizer.name", "{home}/model", "model.name={home}/model"),
        (["model=hf", "model.name=gpt2"], "model.name", "gpt2", "model.name=gpt2"),
        (["data=jsonl", "data.source.path=x", "data.source.text=text"], "data.source.text", "text",
         "data.source.text=text"),
        (["tracking.uri=sqlite:///store.db"], "tracking.uri", "sqlite:///{home}/store.db",
         "tracking.uri=sqlite:///{home}/store.db"),
        (["tracking.uri=http://host:5000"], "tracking.uri", "http://host:5000", "tracking.uri=http://host:5000"),
        (["start=base", "output_dir=results"], "output_dir", "{project}/results", "output_dir={project}/results"),
        (["lora=none"], "output_dir", "{project}/outputs", "lora=none"),
        (["start=base"], "start.source", "experiment=pydoc_base", "start=base"),
    ],
)  # fmt: skip
def test_paths_become_absolute(overrides, key, value, last, home) -> None:
    names = {"home": home, "project": project_dir()}
    cfg, written = make_absolute(*overrides)
    node = cfg
    for part in key.split("."):
        node = node[part]
    assert node == ([one.format(**names) for one in value] if isinstance(value, list) else value.format(**names))
    assert written[-1] == last.format(**names)
    assert compose_config(written).data == cfg.data


def test_swept_paths_become_absolute(home) -> None:
    swept = ["data=text", "data.source.path=notes.md,absent.md"]
    written = make_overrides_absolute(swept, *make_paths_absolute(compose_config(["data=text"])))
    assert written == ["data=text", f"data.source.path={home}/notes.md,absent.md"]


def test_path_of_a_configuration_file_becomes_an_override(home, tmp_path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults: [{override /data: text}]\ndata: {source: {path: notes.md}}\nlocked: [LOCK]\n"
    for name, lock in (("free", "seed"), ("locked", "data.source")):
        (tmp_path / "conf" / "experiment" / f"{name}.yaml").write_text(text.replace("LOCK", lock))
    search = f"hydra.searchpath=[file://{tmp_path}/conf]"
    assert make_absolute(search, "experiment=free")[1][2:] == [f"data.source.path={home}/notes.md"]
    assert make_absolute(search, "experiment=locked")[1][2:] == []


def test_paths_of_own_components_are_known_by_their_form(home) -> None:
    own = {"_target_": "my_package.Source", "root": "notes.md", "parts": ["./notes.md"], "column": "notes", "rate": 0.5,
           "inner": {"corpus_file": "notes.md", "missing": "absent.md"}}  # fmt: skip
    shipped = {"_target_": "harness.data.sources.JSONL", "text": "notes.md"}
    cfg = OmegaConf.create({"data": {"source": own, "other": shipped}, "output_dir": "/out", "cache_dir": "/cache"})
    (home / "notes").mkdir()
    assert make_paths_absolute(cfg)[1] == {
        "data.source.root": f"{home}/notes.md",
        "data.source.parts": [f"{home}/notes.md"],
        "data.source.inner.corpus_file": f"{home}/notes.md",
    }


def test_names_of_runs_become_folders(home, tmp_path) -> None:
    run = write_run(tmp_path / "outputs" / "2026-01-02_03-04-05_mine", [1.0])
    place = f"output_dir={tmp_path}/outputs"
    cfg, written = make_absolute(place, "start=warm", "start.source=last")
    assert (cfg.start.source, written[-1]) == (str(run), f"start.source={run}")
    assert make_absolute(place, "start=resume", "start.run=mi")[0].start.run == str(run)
    assert make_absolute(place, "start=resume", "start.run=absent")[0].start.run == "absent"
    newest = write_run(tmp_path / "outputs" / "2026-01-03_03-04-05_mine", [1.0])
    assert make_absolute(place, "start=warm", "start.source=mine")[0].start.source == str(newest)
    with pytest.raises(ConfigError, match=r"start\.source: 'mi' stands for 2 runs"):
        make_absolute(place, "start=warm", "start.source=mi")


def test_configuration_of_the_caller_is_not_changed(home) -> None:
    cfg = compose_config(["data=text", "data.source.path=notes.md"])
    make_paths_absolute(cfg)
    assert cfg.data.source.path == "notes.md"


def test_names_of_splits_are_not_paths(home) -> None:
    (home / "test").mkdir()
    cfg, overrides = make_absolute("data=huggingface", "data.source.path=text", "data.test=test")
    assert cfg.data.test == "test"
    assert cfg.data.source.path == f"{home}/text"
    assert "data.test=test" in overrides
