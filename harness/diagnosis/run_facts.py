"""Facts of a run of this harness, from its settings in effect, configuration and task constants."""

import ast
import math
from collections.abc import Mapping

from harness.core.component_keys import rename_component_keys
from harness.core.effective_settings import PREFIX, EffectiveSettings
from harness.core.objective_keys import select_objective_settings
from harness.diagnosis.history import DataIdentity, RunFacts

LENGTH_KEYS = ("loop.max_steps", "loop.epochs", "loop.max_tokens")
"""Keys of which one sets the length of a run."""
CONSTANT_PREFIX = "constant."
"""Prefix of the parameters that MLflow shows of the constants of a task."""
COMMIT, MLFLOW_COMMIT = "git.commit", "mlflow.source.git.commit"
PROVENANCE_TAGS = (COMMIT, "git.is_dirty", "host", "device", "platform", "python", "omp_wait_policy")
PROVENANCE_PREFIX = "version."
"""Tags of a run that say which code ran, and where."""


def extract_run_facts(
    name: str,
    params: Mapping[str, str],
    effective: EffectiveSettings,
    constants: Mapping[str, float],
    dataset: Mapping[str, str],
) -> RunFacts:
    """Return the facts of a run; `params` is its configuration by dotted key, `dataset` as a task describes it."""
    warmup_ratio = _get_number(params, "schedule.warmup_ratio")
    steps = effective.total_steps - effective.schedule_start_step
    return RunFacts(
        name=name,
        total_steps=effective.total_steps,
        log_every=_get_integer(params, "loop.log_every") or 1,
        batch_size=effective.batch_size,
        steps_per_epoch=effective.steps_per_epoch,
        optimizer=effective.optimizer,
        peak_lr=_to_number(effective.get_group_value("peak_lr")),
        grad_clip=effective.grad_clip,
        weight_decay=_to_number(effective.get_group_value("weight_decay")),
        schedule=effective.schedule or None,
        monitor="val/loss" if effective.schedule == "Plateau" else None,
        patience=_get_integer(params, "schedule.patience"),
        requested_warmup=_get_number(params, "schedule.warmup_steps") if warmup_ratio is None else warmup_ratio * steps,
        warmup_steps=effective.warmup_steps,
        length=next(((key, value) for key in LENGTH_KEYS if (value := _get_number(params, key))), None),
        lora_rank=_get_integer(params, "lora.rank"),
        uniform_loss=constants.get("ln_vocabulary", constants.get("zero_predictor")),
        unigram_loss=constants.get("unigram_entropy", constants.get("mean_predictor")),
        val_fraction=_get_number(params, "data.val_fraction"),
        data=_identify_data(dataset, constants),
        objective=select_objective_settings(params),
        parameters=effective.parameters,
        trainable_parameters=effective.trainable_parameters,
        settings=_select_settings(params) | effective.to_params(),
        expect=_parse_list(params.get("expect", "[]")),
    )


def select_provenance(tags: Mapping[str, str]) -> dict[str, str]:
    """Return those of the tags of a run that say which code ran, and where."""
    found = {name: tags[name] for name in tags if name in PROVENANCE_TAGS or name.startswith(PROVENANCE_PREFIX)}
    return {COMMIT: tags[MLFLOW_COMMIT], **found} if MLFLOW_COMMIT in tags else found


def _select_settings(params: Mapping[str, str]) -> dict[str, str]:
    """Return the configuration among the parameters of a record or of MLflow, which also hold what was found."""
    found = (PREFIX, CONSTANT_PREFIX)
    return {key: value for key, value in rename_component_keys(params).items() if not key.startswith(found)}


def _identify_data(dataset: Mapping[str, str], constants: Mapping[str, float]) -> DataIdentity | None:
    if not dataset.get("digest"):
        return None
    ln_vocabulary = constants.get("ln_vocabulary")
    return DataIdentity(
        dataset.get("name", "data"),
        dataset["digest"],
        dataset.get("validation"),
        dataset.get("validation_size"),
        dataset.get("tokenizer", "" if ln_vocabulary is None else None),
        None if ln_vocabulary is None else round(math.exp(ln_vocabulary)),
    )


def _parse_list(text: str) -> tuple[str, ...]:
    """Parse a list in Python's notation; return an empty tuple if it was cut off, as in a long MLflow parameter."""
    try:
        return tuple(map(str, ast.literal_eval(text)))
    except (ValueError, SyntaxError, TypeError):
        return ()


def _get_integer(params: Mapping[str, str], key: str) -> int | None:
    number = _get_number(params, key)
    return None if number is None else round(number)


def _get_number(params: Mapping[str, str], key: str) -> float | None:
    """Return the value of `key`, or None if the key is absent or its value is not a number."""
    return _to_number(params.get(key))


def _to_number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]  # TypeError for what is not a number
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number
