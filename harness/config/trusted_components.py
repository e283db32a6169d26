"""Components that a configuration may name, by exact name and by the place where they may stand.

A configuration may come from anyone: a recorded run, a folder of a colleague, a study in a shared database. Therefore
nothing else is imported or called because a configuration says so. To add a component: its name here, next to its YAML.
HARNESS_TRUST in the environment adds the user's own; it is not a key because a configuration must not be able to
declare itself trusted.
"""

import os
import re
from collections.abc import Iterator, Sequence

from harness.core.errors import ConfigError


def _names_in(module: str, names: str) -> tuple[str, ...]:
    return tuple(f"{module}.{name}" for name in names.split())


SOURCES = _names_in("harness.data.sources", "HuggingFace JSONL Headlines PydocQA PydocText QAMarkdown TextFiles")
PYTORCH_OPTIMIZER = (
    "ADOPT APOLLO AccSGD AdEMAMix AdaBelief AdaBound AdaDelta AdaFactor AdaGC AdaMax AdaMod AdaNorm AdaPNM "
    "AdaSmooth AdaTAM Adai Adalite Adam AdamC AdamG AdamP AdamS AdamW AdamWSN Adan AggMo Aida Alice Amos Ano "
    "ApolloDQN AvaGrad BCOS CAME DASH DAdaptAdaGrad DAdaptAdam DAdaptAdan DAdaptLion DAdaptSGD DiffGrad DualAdam "
    "EXAdam EmoFact EmoLynx EmoNavi FAdam FOCUS FTRL Fira FlashAdamW Fromage GaLore Grams Gravity GrokFastAdamW Kate "
    "Kron LARS LaProp Lamb Lion MADGRAD MARS MSVAG NAdam Nero NovoGrad PAdam PID PNM Prodigy QHAdam QHM RACS RAdam "
    "RMSprop ROSE Ranger SCION SCIONLight SGD SGDP SGDSaI SGDW SM3 SOAP SPAM SRMM SWATS SaRA ScheduleFreeAdamW "
    "ScheduleFreeRAdam ScheduleFreeSGD Shampoo SignSGD SimplifiedAdEMAMix StableAdamW TAM Tiger VSGD Yogi"
)
"""Optimizers of that package that train here and resume without a difference.

The others need a closure, another argument, the model or two-dimensional parameters (AdaHessian, AliG, LBFGS, LOMO,
Muon, SAM, SophiaH, ...), or do not resume: AdaShift, Conda and ScalableShampoo save objects, ASGD and
StableSPAM continue differently. Magma and SPlus fail while training.
"""
OPTIMIZERS = (
    *_names_in("harness.training.optimizers", "Lamb build_muon"),
    *_names_in("torch.optim", "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax Muon NAdam RAdam RMSprop Rprop SGD"),
    *_names_in("pytorch_optimizer", PYTORCH_OPTIMIZER),
)
PRUNERS = (
    "harness.sweep.study.pausing.PausingPruner",
    *_names_in(
        "optuna.pruners",
        "HyperbandPruner MedianPruner NopPruner PatientPruner PercentilePruner SuccessiveHalvingPruner ThresholdPruner "
        "WilcoxonPruner",
    ),
)
SAMPLERS = (
    "harness.sweep.study.curve_sampler.CurveSampler",
    *_names_in(
        "optuna.samplers",
        "BruteForceSampler CmaEsSampler GPSampler GridSampler NSGAIIISampler NSGAIISampler QMCSampler RandomSampler "
        "TPESampler",
    ),
    *_names_in("hydra_plugins.hydra_optuna_sweeper._impl", "create_nsgaii_sampler create_nsgaiii_sampler"),
)
CROSSOVERS = _names_in(
    "optuna.samplers.nsgaii",
    "BLXAlphaCrossover SBXCrossover SPXCrossover UNDXCrossover UniformCrossover VSBXCrossover",
)
LAUNCHERS = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
)

COMPONENTS = {
    "task": (
        "harness.tasks.causal_lm.build_causal_lm_task",
        "harness.tasks.headlines.build_headlines_task",
        "harness.tasks.masked_lm.build_masked_lm_task",
        "harness.tasks.operator.build_operator_task",
    ),
    "task.blimp": ("harness.data.blimp.read_minimal_pairs",),
    "model": (
        "harness.models.fno.build_fno",
        "harness.models.gpt.GPT",
        "harness.models.ltg_bert.LTGBert",
        *_names_in("harness.models.pretrained", "load_causal_lm load_masked_lm load_smollm2"),
    ),
    "data": (
        "harness.data.darcy.build_darcy_data",
        "harness.data.operator_data.load_field_files",
        "harness.data.tokens.prepare_token_data",
    ),
    "data.source": SOURCES,
    "tokenizer": _names_in("harness.data.tokenizers", "ByteLevelBPE PretrainedTokenizer WordPiece"),
    "tokenizer.corpus": SOURCES,
    "tokenizer.name": ("harness.models.pretrained.find_smollm2_file",),
    "lora": ("harness.training.lora.add_adapters",),
    "optimizer": OPTIMIZERS,
    "schedule": _names_in("harness.training.schedules", "Constant Cosine InverseSqrt Linear Plateau Polynomial WSD"),
    "observers.*": (
        "harness.observers.console.ConsolePrinter",
        "harness.observers.diagnosis.DiagnosisObserver",
        "harness.observers.figures.FigureWriter",
        "harness.observers.metrics_writer.MetricsWriter",
        *_names_in("harness.observers.mlflow", "DeferredMlflowUpload MlflowUploader"),
        "harness.observers.tensorboard.TensorBoardWriter",
    ),
    "parallel": (
        "harness.training.fully_shard.FullyShard",
        "harness.training.parallel.DataParallel",
    ),
    "pruner": PRUNERS,
    "pruner.wrapped_pruner": PRUNERS,
    "hydra.sweeper": (
        "harness.sweep.plugin.StudySweeper",
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper",
    ),
    "hydra.sweeper.sampler": SAMPLERS,
    "hydra.sweeper.sampler.crossover": CROSSOVERS,
    "hydra.sweeper.sampler.independent_sampler": SAMPLERS,
    "hydra.sweeper.sampler.mutation": ("optuna.samplers.nsgaii.PolynomialMutation",),
    "hydra.sweeper.custom_search_space": (),  # the user's own only
    "hydra.launcher": LAUNCHERS,
    "hydra.callbacks.*": ("harness.sweep.hydra_callback.ParentRunCallback",),
}
"""Exact names by place, a dotted key of the configuration in which * is any one name."""

LOGGING_TARGETS = (
    *_names_in("logging", "FileHandler NullHandler StreamHandler"),
    "colorlog.ColoredFormatter",
    *_names_in("ext://sys", "stderr stdout"),
)
"""Objects that `hydra.job_logging` and `hydra.hydra_logging` may name."""

JOBLIB_KEYS = (
    "n_jobs inner_max_num_threads backend prefer require verbose timeout pre_dispatch batch_size temp_folder "
    "max_nbytes mmap_mode"
)
SUBMITIT_KEYS = (
    "submitit_folder timeout_min cpus_per_task gpus_per_node tasks_per_node mem_gb nodes name stderr_to_stdout "
    "partition qos comment constraint exclude gres cpus_per_gpu gpus_per_task mem_per_gpu mem_per_cpu account "
    "signal_delay_s max_num_timeout array_parallelism use_srun"
)
RAY_KEYS = (
    "ray.init.num_cpus ray.init.num_gpus ray.remote.num_cpus ray.remote.num_gpus ray.remote.memory "
    "ray.remote.max_calls ray.remote.max_retries"
)
LAUNCHER_KEYS = frozenset(f"{JOBLIB_KEYS} {SUBMITIT_KEYS} {RAY_KEYS}".split())
"""Keys of `hydra.launcher` that only choose resources. Others run commands or code, or load code from elsewhere."""

DOTTED_NAME = r"([^\W\d][\w-]*\.)+[^\W\d]\w*"  # a script, which is a module too, may have dashes in its name
PACKAGE_SOURCE = r"pkg://[\w.]+"


def read_own_names() -> tuple[str, ...]:
    """Return what HARNESS_TRUST names: components, keys of launchers and packages of configurations.

    Raises:
        ConfigError: If an entry is not an exact name.
    """
    names = tuple(filter(None, (name.strip() for name in os.environ.get("HARNESS_TRUST", "").split(","))))
    for name in names:
        if not re.fullmatch(f"{DOTTED_NAME}|{PACKAGE_SOURCE}", name):
            package = re.match(r"\w*", name)
            example = f"{package[0] if package and package[0] else 'my_package'}.MyComponent"
            raise ConfigError(
                f"HARNESS_TRUST: {name!r} is not the name of a component, and a package is not trusted as a whole; "
                f"name each component, such as HARNESS_TRUST={example}"
            )
    return names


def name_trust_line(name: str) -> str:
    """Return the setting that adds `name` to HARNESS_TRUST."""
    return f"HARNESS_TRUST={','.join([*read_own_names(), name])}"


def find_place(path: Sequence[str]) -> str | None:
    """Return the place in COMPONENTS of the key with these parts, or None."""
    for place in COMPONENTS:
        parts = place.split(".")
        if len(parts) == len(path) and all(part in ("*", name) for part, name in zip(parts, path, strict=True)):
            return place
    return None


def list_hydra_targets() -> tuple[str, ...]:
    """Return the names of all that Hydra itself may call: no patterns."""

    def list_names() -> Iterator[str]:
        for place, names in COMPONENTS.items():
            if place.startswith("hydra."):
                yield from names

    return (*dict.fromkeys(list_names()), *(name for name in read_own_names() if "://" not in name))
