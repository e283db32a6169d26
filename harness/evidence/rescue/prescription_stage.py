"""The third stage of a rescue: choose what the sweep searches, and its share of the budget."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness.config.compose import list_choices, list_file_ranges
from harness.config.overrides import format_value
from harness.core.credentials import hide_credentials
from harness.core.paths import run_command
from harness.core.terminal import paragraph_width, print_fitted, wrap_text
from harness.diagnosis.prescription import PrescribedOverride, Prescription, format_lr_ranges
from harness.evidence.rescue.diagnosis_stages import diagnose_with_config
from harness.evidence.rescue.record import DIAGNOSIS, Ending, RescueRecord, StageResult
from harness.evidence.rescue.request import TrainingRescue
from harness.sweep.programs.training.followup_sweep import (
    DiagnosedRun,
    list_file_sweep_overrides,
    list_followup_overrides,
)
from harness.sweep.programs.training.request import TrainingRequest, compose_sweep_request
from harness.sweep.space.search_space import is_in_range

PRESCRIPTION = "prescription"


def run_prescription(rescue: TrainingRescue, record: RescueRecord) -> StageResult:
    """Choose the space from the diagnoses; a diagnosed fault ends the rescue."""
    found = diagnose_with_config(rescue, Path(record.get_details(DIAGNOSIS)["run"]))
    prescription = found.prescribe()
    if prescription.refusal:
        sentence = f"your training has a fault, and nothing was searched: {prescription.refusal.rstrip('.')}"
        remedy = "fix it, then start again in another folder with --to, since the run here has the fault"
        return StageResult("no sweep before the fault is fixed", ending=Ending("fault", f"{sentence}. {remedy}"))
    n_left = rescue.budget_runs - (rescue.run is None)
    if n_left < 1:
        return _end_without_sweep("the diagnosed run has used up the budget; raise --budget-runs")
    ranges, source = _choose_ranges(rescue, found, prescription)
    if not source:
        return _end_without_sweep("there is nothing to search; name a search space with sweeps=NAME")
    notes = [*prescription.notes, *map(_describe_longer_run, prescription.settings)]
    if ranges:
        chosen = list_followup_overrides(replace(prescription, ranges=tuple(ranges), settings=()), rescue.overrides)
    else:
        chosen = list_file_sweep_overrides(rescue.overrides, list_file_ranges(rescue.overrides))
    overrides = [*chosen, *rescue.sweep_overrides, *_name_study(rescue)]
    request = compose_sweep_request(overrides)
    overrides += [f"sweep.runs={rescue.budget_runs}", *_list_first_point(found, request)]
    _print_ranges(request, ranges, notes)
    public = [hide_credentials(override) for override in overrides]
    details = {
        "source": source,
        "ranges": [{"override": part.override, "why": part.why} for part in ranges],
        "notes": notes,
        "overrides": public,
    }
    keys = ", ".join(sorted(request.space.searched_keys))
    cost = f"{n_left}{' more' * (rescue.run is None)} run{'s' * (n_left > 1)}"
    return StageResult(
        f"search {keys} ({source}), at the cost of {cost}",
        details,
        shlex.join([*run_command(), "-m", *public]),
    )


def _end_without_sweep(reason: str) -> StageResult:
    return StageResult("nothing is searched", ending=Ending("not shown", f"no better config was shown: {reason}"))


def _choose_ranges(
    rescue: TrainingRescue, found: DiagnosedRun, prescription: Prescription
) -> tuple[Sequence[PrescribedOverride], str]:
    """Return the ranges to search and where they come from.

    There are none if the experiment's own file has them, and no source if there is nothing to search.
    """
    if prescription.ranges and not prescription.is_guess:
        return prescription.ranges, "from the diagnoses"
    if list_file_ranges(rescue.overrides):
        return (), f"sweeps={list_choices(rescue.overrides)['sweeps']}"
    if prescription.ranges:
        return prescription.ranges, "the usual range"
    if "optimizer.lr" not in found.params:
        return (), ""
    lr = float(found.params["optimizer.lr"])
    why = f"a decade on either side of {lr:g}"
    return [PrescribedOverride(one, why) for one in format_lr_ranges(lr / 10, 10 * lr, found.params)], "the usual range"


def _describe_longer_run(part: PrescribedOverride) -> str:
    return f"{part.why}; {part.override} is not tried, since it costs more tokens than the baseline"


def _print_ranges(request: TrainingRequest, ranges: Sequence[PrescribedOverride], notes: Sequence[str]) -> None:
    if not ranges:
        print_fitted(*(f"  {key}: {text}" for key, text in request.space.format_ranges().items()))
    width = max((len(part.override) for part in ranges), default=0)
    for part in ranges:
        print(*wrap_text(part.why, paragraph_width(), f"  {part.override:<{width}}  ", " " * 6), sep="\n")
    for note in notes:
        print_fitted(f"note: {note}")


def _name_study(rescue: TrainingRescue) -> list[str]:
    folder = format_value(str(rescue.folder / "sweep"))
    return [f"sweep.study={format_value(f'rescue_{rescue.folder.name}'[:80])}", f"hydra.sweep.dir={folder}"]


def _list_first_point(found: DiagnosedRun, request: TrainingRequest) -> Iterator[str]:
    """Yield an override that tries the settings first that the diagnoses suggest, as far as the space has them."""
    ranges = request.space.active_ranges(request.space.group_options)
    point = {
        one.key: one.value
        for diagnosis in found.diagnoses
        for one in diagnosis.suggestions
        if one.is_setting and one.key in ranges and is_in_range(ranges[one.key], one.value)
    }
    if point:
        yield f"sweep.enqueue={format_value([point])}"
