"""A configuration that Hydra composes runs nothing but trusted components, and overwrites nothing."""

import re
from copy import deepcopy
from functools import cache

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from harness import cli
from harness.config.targets import build_component
from harness.config.trust import check_components, check_composed_config, check_hydra_settings
from harness.config.validation import validate_config
from harness.core.errors import ConfigError
from harness.core.paths import config_dir
from tests.attack_target import AttackTarget, number_attacks
from tests.conftest import run_main, run_script

TOUCH = "{_target_:os.system,command:'touch MARKER'}"
REMOVE = "{_target_:harness.data.cache.ensure_cached,folder:VICTIM,write:{_target_:evil.run,_partial_:true}}"
SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"

COMMAND_LINES = {
    # components in other places, and other components
    "a function of Python below a number": [f"++model.dropout={TOUCH}"],
    "code of a model's folder": [
        "++model.dropout={_target_:transformers.models.auto.configuration_auto.AutoConfig.from_pretrained,pretrained_model_name_or_path:FOLDER,"
        "trust_remote_code:true}"
    ],
    "our function that removes folders": [f"++model.dropout={REMOVE}"],
    "our function that removes folders, as the data": ["data._target_=harness.data.cache.ensure_cached"],
    "our function that writes files": ["task._target_=harness.core.files.write_atomically"],
    "a module of the user": ["optimizer._target_=evil.Component"],
    "a component in the place of another": ["model._target_=harness.data.sources.PydocText"],
    "a re-export of a trusted class": ["optimizer._target_=torch.optim.adamw.AdamW"],
    "what a module of ours has imported": ["lora._target_=harness.training.lora.Path"],
    "a function behind a module of ours": ["model._target_=harness.models.pretrained.torch.load"],
    "a method of a trusted class": ["model._target_=harness.models.gpt.GPT.forward"],
    "a private function of ours": ["optimizer._target_=harness.training.optimizers._part_state"],
    "a class of torch that is no optimizer": ["optimizer._target_=torch.optim.Optimizer"],
    "a builtin": ["schedule._target_=builtins.eval"],
    "an observer": ["+observers.x={_target_:subprocess.call,args:[touch,MARKER]}"],
    "an observer below an observer": [f"+observers.console.x={TOUCH}"],
    "a corpus": ["tokenizer.corpus._target_=evil.Component"],
    "a name of a tokenizer": ["tokenizer=smollm2", "tokenizer.name._target_=evil.Component"],
    "minimal pairs": ["task.blimp._target_=harness.training.checkpoint.save_weights"],
    "a source": ["data.source._target_=evil.Component"],
    "the pruner of a single run": ["pruner._target_=evil.Component"],
    "a wrapped pruner": ["pruner=patient", "pruner.wrapped_pruner._target_=evil.Component"],
    "in a list": ["+data.extra=[1,{_target_:evil.run}]"],
    "in a list in a list": ["+data.extra=[[{_target_:evil.run}]]"],
    "deeply nested": ["+data.extra={a:{b:{c:{d:{e:{_target_:evil.run}}}}}}"],
    "in a new section": ["+more={_target_:evil.run}"],
    "at the top level": ["+_target_=evil.run"],
    "in a point of a sweep": ["sweep.enqueue=[{optimizer.lr:{_target_:evil.run}}]"],
    "a section with a dotted key": ["+more={pruner.wrapped_pruner:{_target_:evil.run}}"],
    # special keys of Hydra
    "positional arguments": ["+optimizer._args_=[[1]]"],
    "a whitelist": ["+optimizer._execution_whitelist_=[os.system]"],
    "a conversion": ["+optimizer._convert_=all"],
    "no recursion": ["+optimizer._recursive_=false"],
    "a special key without a target": ["+loop._partial_=true"],
    "a partial that is a number": ["optimizer._partial_=1"],
    "a target that is a list": ["optimizer._target_=[os,system]"],
    "a target that is a mapping": ["optimizer._target_={_target_:evil.run}"],
    "a target that is a number": ["optimizer._target_=1"],
    "a target from the environment": ["optimizer._target_=${oc.env:ATTACK_FILE}"],
    "a target from another key": ["+more=evil.run", "optimizer._target_=${more}"],
    "a node made by a resolver": ["++model.dropout='${oc.create:\"{_target_: evil.run}\"}'"],
    "a node from a section of Hydra": ["++model.dropout=${hydra:callbacks.parent_run}"],
    # what Hydra itself builds
    "a callback": ["+hydra.callbacks.x={_target_:evil.Component}"],
    "a callback that removes folders": [f"+hydra.callbacks.x={REMOVE}"],
    "another callback in the place of ours": ["hydra.callbacks.parent_run._target_=evil.Component"],
    "a component in a callback": ["+hydra.callbacks.parent_run.x={_target_:evil.run}"],
    "callbacks from another key": ["+more={x:{_target_:evil.run}}", "hydra.callbacks='${more}'"],
    "callbacks made by a resolver": ["hydra.callbacks='${oc.create:\"{x: {_target_: evil.run}}\"}'"],
    "a launcher": ["-m", "hydra.launcher._target_=evil.Component"],
    "a sweeper": ["-m", "hydra.sweeper._target_=evil.Component"],
    "a sampler": ["-m", "hydra.sweeper.sampler._target_=evil.Component"],
    "a sampler of Hydra's sweeper": ["-m", "hydra/sweeper=optuna", "hydra.sweeper.sampler._target_=evil.Component"],
    "constraints of a sampler": ["-m", "+hydra.sweeper.sampler.constraints_func={_target_:evil.run,_partial_:true}"],
    "a sampler of a sampler": [
        "-m",
        "hydra/sweeper/sampler=cmaes",
        "hydra.sweeper.sampler.independent_sampler={_target_:evil.run}",
    ],
    "a storage": ["-m", "hydra.sweeper.storage={_target_:evil.run}"],
    "a search space": ["-m", "hydra.sweeper.custom_search_space=evil.run"],
    "a search space of Hydra's sweeper": ["-m", "hydra/sweeper=optuna", "hydra.sweeper.custom_search_space=evil.run"],
    "a package of configurations": ["hydra.searchpath=[pkg://evil]"],
    "a package of configurations, escaped": ["hydra.searchpath=[pkg\\://evil]"],
    # logging
    "a factory of formatters": ["+hydra.job_logging.formatters.x={\\(\\):evil.run}"],
    "a factory of filters": ["+hydra.job_logging.filters.x={\\(\\):evil.run}"],
    "a handler": ["hydra.job_logging.handlers.console.class=evil.Component"],
    "a handler that connects to others": ["hydra.job_logging.handlers.console.class=logging.handlers.HTTPHandler"],
    "a stream": ["hydra.job_logging.handlers.console.stream=ext://evil.run"],
    "an object within the logging": ["hydra.job_logging.handlers.console.stream=cfg://root"],
    "attributes of a handler": ["+hydra.job_logging.handlers.console={.:{emit:ext://evil.run}}"],
    "logging of Hydra": ["hydra.hydra_logging.handlers.console.class=evil.Component"],
    "a log that empties a file": [
        "+hydra.job_logging.handlers.x={class:logging.FileHandler,filename:VICTIM/file.txt,mode:w}"
    ],
    "a log that poses as a shell's settings": [
        "+hydra.job_logging.handlers.x={class:logging.FileHandler,filename:VICTIM/.bashrc}"
    ],
    "logging from another key": ["+more={version:1,root:{}}", "hydra.job_logging='${more}'"],
    "a stream from another key": ["+more=ext://evil.run", "hydra.job_logging.handlers.console.stream='${more}'"],
    # what only a job would know
    "a handler made by a resolver": [
        "hydra.job_logging.handlers.console='${oc.create:{class:logging.FileHandler,mode:w,filename:\"${hydra.runtime.output_dir}/../victim/file.txt\"}}'"
    ],
    "a handler made by a resolver, under another key": [
        "+more='${oc.create:{class:logging.FileHandler,mode:w,filename:\"${hydra.runtime.output_dir}/../victim/file.txt\"}}'",
        "hydra.job_logging.handlers.console='${more}'",
    ],
    "a handler made by a resolver under another name": [
        "+more=oc.create",
        "hydra.job_logging.handlers.console='${${more}:{class:evil.Component,x:\"${hydra.runtime.output_dir}/../victim/file.txt\"}}'",
    ],
    "formatters made by a resolver": [
        "hydra.job_logging.formatters='${oc.create:{simple:{class:evil.Component,x:\"${hydra.runtime.output_dir}/../victim/file.txt\"}}}'"
    ],
    "logging made by a resolver": [
        "hydra.job_logging='${oc.decode:\"{version:1,root:{},x:${hydra.runtime.output_dir}/../victim/file.txt}\"}'"
    ],
    "logging of Hydra made by a resolver": [
        "hydra.hydra_logging='${oc.create:{version:1,x:\"${hydra.runtime.output_dir}/../victim/file.txt\"}}'"
    ],
    "logging chosen by a resolver": ["hydra.job_logging='${oc.select:hydra.runtime.output_dir,null}'"],
    "values of a mapping": ["hydra.job_logging.root.handlers='${oc.dict.keys:hydra.job_logging.handlers}'"],
    "a file of the job in another folder": [
        "+hydra.job_logging.handlers.x={class:logging.FileHandler,filename:'${hydra.runtime.output_dir}/../victim/file.txt.log'}"
    ],
    "a callback made by a resolver": [
        "+hydra.callbacks.x='${oc.create:{_target_:evil.Component,x:\"${hydra.runtime.output_dir}/../victim/file.txt\"}}'"
    ],
    "a launcher made by a resolver": [
        "-m",
        "hydra.launcher='${oc.create:{_target_:evil.Component,x:\"${hydra.runtime.output_dir}/../victim/file.txt\"}}'",
    ],
    "a sampler made by a resolver": [
        "-m",
        "hydra.sweeper.sampler='${oc.create:{_target_:evil.Component,x:\"${hydra.runtime.output_dir}/../victim/file.txt\"}}'",
    ],
    "a number chosen by a resolver": ["-m", "hydra.sweeper.n_jobs='${oc.select:hydra.runtime.output_dir,1}'"],
    "a line in the script of a job, known later": [
        "-m",
        "hydra/launcher=submitit_slurm",
        '++hydra.job.name="a\ntouch M ${hydra:job.num}"',
    ],
    # the environment and files
    "trust from a configuration": ["+hydra.job.env_set.HARNESS_TRUST=evil.run"],
    "a path of modules": ["+hydra.job.env_set.PYTHONPATH=FOLDER"],
    "a library to load": ["+hydra.job.env_set.LD_PRELOAD=FOLDER/evil.so"],
    "a copied variable": ["hydra.job.env_copy=[HOME]"],
    "a copied variable that is not set": ["hydra.job.env_copy=[HARNESS_TRUST]"],
    "files of Hydra in another folder": ["hydra.run.dir=VICTIM", "hydra.output_subdir=."],
    "files of Hydra in the folder of another run": ["hydra.run.dir=VICTIM", "hydra.output_subdir=.hydra"],
    "a password in the records of Hydra": ["-m", "hydra/sweeper=basic", "+data.path=http://me:secret@host/x"],
    # what a launcher runs by design
    "commands before a job": ["-m", "hydra/launcher=submitit_slurm", "hydra.launcher.setup=['touch MARKER']"],
    "another Python": ["-m", "hydra/launcher=submitit_slurm", "hydra.launcher.python='touch MARKER;'"],
    "options of sbatch": ["-m", "hydra/launcher=submitit_slurm", "+hydra.launcher.additional_parameters.wrap=touch"],
    "options of srun": ["-m", "hydra/launcher=submitit_slurm", "hydra.launcher.srun_args=['--prolog=FOLDER/x']"],
    "a line in the script of a job": ["-m", "hydra/launcher=submitit_slurm", 'hydra.launcher.partition="a\ntouch M"'],
    "a line in the name of a job": ["-m", "hydra/launcher=submitit_slurm", '++hydra.job.name="a\ntouch M"'],
    "an environment of Ray": ["-m", "+hydra.launcher.ray.init.runtime_env.py_modules=[FOLDER]"],
    "a cluster of Ray": ["-m", "+hydra.launcher.ray.init.address=ray://example.org"],
    "a launcher from another key": ["-m", "+more={_target_:evil.run}", "hydra.launcher='${more}'"],
}


def check_refused(status: int, stderr: str, target: AttackTarget, tmp_path) -> None:
    """Check that a command ended with one message and status 2, and that nothing was run, written or removed."""
    assert status == 2, stderr
    assert "Traceback" not in stderr
    lines = [line for line in stderr.strip().splitlines() if not line.startswith("[I ")]  # those are Optuna's
    assert len([line for line in lines if not line.endswith("then cached")]) == 1  # those announce what takes time
    target.check_untouched()
    left = {path.name for path in tmp_path.rglob("*") if path.is_file() and target.folder not in path.parents}
    assert not left - {"sweep.lock", "multirun.yaml"}  # the latter is Hydra's own


@pytest.mark.parametrize("typed", number_attacks(COMMAND_LINES, whole_every=12))
def test_attack_on_the_command_line(typed, target, places, tmp_path, monkeypatch, capfd) -> None:
    experiment = [] if "-m" in typed else ["experiment=smoke", "lora=all_linear", "tokenizer=pydoc"]
    status = run_main(monkeypatch, *places, *experiment, *map(target.fill_in, typed))
    check_refused(status, capfd.readouterr().err, target, tmp_path)


PARSER = OverridesParser.create()
IN_ONE_CONFIGURATION = {name: typed for name, typed in COMMAND_LINES.items() if "searchpath" not in typed[0]}


@cache
def compose_choices(choices: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(config_dir()), job_name="run"):
        return compose("config", ["lora=all_linear", *choices], return_hydra_config=True)


@pytest.mark.parametrize("typed", number_attacks(IN_ONE_CONFIGURATION))
def test_attack_on_a_composed_configuration(typed, target, places) -> None:
    """Apply the overrides as Hydra does, without its start; the test above starts it, `slow` for every attack."""
    parsed = PARSER.parse_overrides([target.fill_in(override) for override in typed if override != "-m"])
    is_choice = {
        id(override): "/" in override.key_or_group or "." not in str(override.input_line) for override in parsed
    }
    cfg = deepcopy(compose_choices(tuple(str(o.input_line) for o in parsed if is_choice[id(o)])))
    ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if not is_choice[id(o)]], cfg)
    with pytest.raises(ConfigError):
        use_configuration(cfg)
    target.check_untouched()


def use_configuration(cfg: DictConfig) -> None:
    check_composed_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    validate_config(cfg)


FEW_LINES = "data=text data.source.path=FOLDER/evil.py tokenizer=bpe tokenizer.vocab_size=260 data.sequence_length=8 "
FEW_LINES += "batch.batch_size=1"
RESOLVED_HANDLER = """# @package _global_
hydra:
  job_logging:
    handlers:
      console: "${oc.create:{class: logging.FileHandler, mode: w, filename: '${hydra.runtime.output_dir}/file.txt'}}"
"""
JOB_LOG = """# @package _global_
defaults: [smoke]
hydra: {job_logging: {handlers: {x: {class: logging.FileHandler, filename: VICTIM/x.log, mode: w}}}}
"""
OWN_FILES = {
    # files of a folder given with --config-dir, and the arguments that choose them
    "an option of a group": (
        {"optimizer/x.yaml": "_target_: evil.Component\n_partial_: true\nlr: 0.1\n"},
        "optimizer=x",
    ),
    "an option that replaces ours": ({"model/y.yaml": "width: {_target_: evil.run}\n"}, "+model=y"),
    "an experiment with a callback": (
        {"experiment/x.yaml": "# @package _global_\nhydra: {callbacks: {x: {_target_: evil.Component}}}\n"},
        "experiment=x",
    ),
    "an experiment that sets a variable": (
        {"experiment/x.yaml": "# @package _global_\nhydra: {job: {env_set: {HARNESS_TRUST: evil.run}}}\n"},
        "experiment=x",
    ),
    "an experiment with logging": (
        {"experiment/x.yaml": "# @package _global_\nhydra: {job_logging: {filters: {x: {(): evil.run}}}}\n"},
        "experiment=x",
    ),
    "an experiment with a handler made by a resolver": (
        {"experiment/x.yaml": RESOLVED_HANDLER},
        "hydra.run.dir=VICTIM experiment=x",
    ),
    "a launcher of Hydra's group": ({"hydra/launcher/x.yaml": "_target_: evil.Component\n"}, "-m hydra/launcher=x"),
    "a callback of Hydra's group": ({"hydra/callbacks/x.yaml": "x: {_target_: evil.Component}\n"}, "hydra/callbacks=x"),
    "a sampler of Hydra's group": (
        {"hydra/sweeper/sampler/x.yaml": "_target_: evil.Component\n"},
        "-m hydra/sweeper/sampler=x",
    ),
    "a search space": ({"sweeps/x.yaml": "# @package _global_\npruner: {_target_: evil.Component}\n"}, "-m sweeps=x"),
    "a job of Hydra's own sweeper": (
        {"experiment/x.yaml": "# @package _global_\nhydra: {job: {env_set: {PYTHONPATH: FOLDER}}}\n"},
        "-m hydra/sweeper=basic sweeps=none experiment=x,smoke",
    ),
    "a component in a job of Hydra's own sweeper": (
        {"experiment/x.yaml": "# @package _global_\nmodel: {dropout: {_target_: evil.run}}\n"},
        "-m hydra/sweeper=basic sweeps=none experiment=x,smoke",
    ),
    "a job that Hydra composes in another process only": (
        {"experiment/x.yaml": JOB_LOG},
        "-m hydra/sweeper=optuna hydra/launcher=joblib sweeps=none experiment=choice(x,x) hydra.sweeper.n_trials=1",
    ),
    "a primary configuration": (
        {"x.yaml": "defaults: [config, _self_]\nhydra: {callbacks: {x: {_target_: evil.Component}}}\n"},
        "--config-name x",
    ),
    "a package in a primary configuration": (
        {"x.yaml": "defaults: [config, _self_]\nhydra: {searchpath: [pkg://evil]}\n"},
        "--config-name x",
    ),
    "a base model": (
        {"experiment/x.yaml": "# @package _global_\nmore: {_target_: evil.run}\n"},
        f"{FEW_LINES} start=base start.source='experiment=x'",
    ),
}


@pytest.mark.parametrize(("files", "typed"), number_attacks(OWN_FILES, whole_every=5))
def test_attack_from_a_folder_of_configurations(files, typed, target, places, tmp_path, monkeypatch, capfd) -> None:
    for name, text in files.items():
        file = target.folder / "conf" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(target.fill_in(text))
    status = run_main(monkeypatch, "--config-dir", f"{target.folder}/conf", *places, *target.fill_in(typed).split())
    check_refused(status, capfd.readouterr().err, target, tmp_path)


MISUSES = {
    # values of HARNESS_TRUST, and a part of the message
    "a package": ("evil", "HARNESS_TRUST=evil.MyComponent"),
    "a pattern": ("evil.*", "HARNESS_TRUST=evil.MyComponent"),
    "everything": ("*", "HARNESS_TRUST=my_package.MyComponent"),
    "a package among others": ("torch.optim.Rprop, evil", "HARNESS_TRUST=evil.MyComponent"),
    "a trailing dot": ("evil.", "HARNESS_TRUST=evil.MyComponent"),
    "a path": ("/tmp/evil.py", "HARNESS_TRUST=my_package.MyComponent"),
    "another component": ("evil.Other", "set HARNESS_TRUST=evil.Other,evil.Component"),
    "the class of a method": ("evil.Component.pop", "set HARNESS_TRUST=evil.Component.pop,evil.Component"),
    "its module under another name": ("evil.evil.Component", "set HARNESS_TRUST=evil.evil.Component,evil.Component"),
    "another case": ("Evil.component", "set HARNESS_TRUST=Evil.component,evil.Component"),
    "a section of the launcher": ("hydra.launcher", "set HARNESS_TRUST=hydra.launcher,evil.Component"),
}


@pytest.mark.parametrize(("trusted", "part"), number_attacks(MISUSES))
def test_misuse_of_the_trust_variable(trusted, part, target, monkeypatch) -> None:
    monkeypatch.setenv("HARNESS_TRUST", trusted)
    with pytest.raises(ConfigError, match=re.escape(part)):
        build_component({"_target_": "evil.Component", "_partial_": True}, ("optimizer",))
    target.check_untouched()


def test_an_own_component_stands_where_components_may_stand_only(target, places, monkeypatch) -> None:
    monkeypatch.setenv("HARNESS_TRUST", "evil.Component")
    check_components({"optimizer": {"_target_": "evil.Component"}})
    for plain in ({"model": {"dropout": {"_target_": "evil.Component"}}}, {"more": {"_target_": "evil.Component"}}):
        with pytest.raises(ConfigError, match="a component cannot stand here; remove"):
            check_components(plain)


def test_a_package_in_the_trust_variable_ends_the_command(target, places, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("HARNESS_TRUST", "evil")
    status = run_main(monkeypatch, "experiment=smoke", *places, "optimizer._target_=evil.Component")
    check_refused(status, capfd.readouterr().err, target, tmp_path)


COMMANDS = ["preflight", "lr-range", "clean --to FOLDER/copy.txt", "verify-resume", "rescue --to FOLDER/rescue"]


@pytest.mark.parametrize("command", COMMANDS)
def test_attack_through_a_command(command, target, places, tmp_path, capfd) -> None:
    typed = [*target.fill_in(command).split(), "experiment=smoke", *places, "++model.dropout={_target_:evil.run}"]
    check_refused(cli.main(typed), capfd.readouterr().err, target, tmp_path)


@pytest.mark.slow
def test_attack_in_a_job_that_a_launcher_runs_in_another_process(target, places, tmp_path) -> None:
    """The job is composed in its own process, where only its task function and Hydra's whitelist check it."""
    file = target.folder / "conf" / "experiment" / "x.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"# @package _global_\nhydra: {{job: {{env_set: {{PYTHONPATH: {target.folder}}}}}}}\n")
    launcher = ["-m", "hydra/sweeper=basic", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "sweeps=none"]
    done = run_script("--config-dir", f"{target.folder}/conf", *places, *launcher, "experiment=x,smoke")
    assert done.returncode != 0
    assert "a configuration cannot set environment variables" in done.stderr
    assert not list(tmp_path.glob("outputs/*/metrics.jsonl"))
    target.check_untouched()


@pytest.mark.parametrize("key", ["setup", "python", "srun_args"])
def test_a_key_of_the_launcher_that_the_environment_trusts_passes(key, monkeypatch) -> None:
    monkeypatch.setenv("HARNESS_TRUST", f"torch.optim.Rprop,hydra.launcher.{key}")
    sweeper = {"_target_": "harness.sweep.plugin.StudySweeper"}
    launcher = {"_target_": SLURM, key: ["module load cuda"], "partition": "gpu"}
    hydra = OmegaConf.create({"launcher": launcher, "sweeper": sweeper})
    check_hydra_settings(hydra)
    monkeypatch.setenv("HARNESS_TRUST", "hydra.launcher.other")
    with pytest.raises(ConfigError, match=rf"set HARNESS_TRUST=hydra.launcher.other,hydra.launcher.{key}$"):
        check_hydra_settings(hydra)


SAMPLERS = ["tpe", "random", "cmaes", "nsgaii", "nsgaiii", "grid", "gp", "qmc"]
SHIPPED = [
    *(["hydra/sweeper=optuna", f"hydra/sweeper/sampler={sampler}"] for sampler in SAMPLERS),
    *([f"hydra/launcher={launcher}"] for launcher in ("joblib", "submitit_local", "submitit_slurm")),
    ["hydra/sweeper=basic", "hydra/job_logging=default", "hydra/hydra_logging=default"],
    ["hydra/job_logging=none", "hydra/hydra_logging=disabled"],
    ["hydra/job_logging=disabled", "hydra/hydra_logging=none"],
]


@pytest.mark.parametrize("choices", SHIPPED, ids=" ".join)
def test_the_options_that_hydra_and_its_plugins_ship_pass(choices: list[str]) -> None:
    check_composed_config(compose_choices(tuple(choices)))
