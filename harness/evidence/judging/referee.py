"""Judge the last change of a tuning loop: keep it, discard it, or say why this cannot be told."""

from collections.abc import Sequence
from dataclasses import replace

from harness.core.formatting import format_number
from harness.evidence.judging.comparability import find_differences, note_unchecked
from harness.evidence.judging.error_budget import find_one_run_level
from harness.evidence.judging.fresh_decisions import find_fresh_decision
from harness.evidence.judging.judgement import Evidence, JudgedSide, Judgement, NoiseFloor, make_judgement
from harness.evidence.judging.noise_tests import (
    FEWEST_REPEATS,
    compare_with_noise,
    measure_noise,
)
from harness.evidence.judging.run_log import LoggedConfig, RunLog, describe_runs

PROMISING_P = 0.1
"""p of a single run against the noise, without any correction, up to which running it again is proposed."""


def judge_candidate(
    log: RunLog,
    candidate: LoggedConfig,
    reference: LoggedConfig | None,
    *,
    ignored: Sequence[str] = (),
    extra_reasons: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Judgement:
    """Judge `candidate` against `reference`.

    Args:
        ignored: Columns whose differences do not matter.
        extra_reasons: Known reasons why the two are not comparable.
        notes: What the reader must know besides.
    """
    if reference is None:
        return make_judgement(log, "cannot tell", ["there is no baseline before the candidate"],
                              candidate=JudgedSide.from_config(candidate), notes=tuple(notes),
                              next=(_ask_for_runs(log, None, FEWEST_REPEATS, "the baseline"),))  # fmt: skip
    found = make_judgement(
        log, "discard", [], candidate=JudgedSide.from_config(candidate), reference=JudgedSide.from_config(reference),
        tries=_count_tries(log, candidate), notes=(*notes, *note_unchecked(log)),
    )  # fmt: skip
    reasons = [*find_differences(log, candidate, reference, ignored), *extra_reasons]
    if reasons:
        return replace(found, verdict="not comparable", reasons=tuple(reasons))
    noise = measure_noise(log, reference)
    return _decide(log, candidate, reference, replace(found, noise=noise), noise)


def _decide(
    log: RunLog, candidate: LoggedConfig, reference: LoggedConfig, found: Judgement, noise: NoiseFloor
) -> Judgement:
    difference = candidate.mean - reference.mean
    if log.sign * difference >= 0:
        gap = f"{format_number(abs(difference))} {'below' if difference < 0 else 'above'}" if difference else "equal to"
        return replace(found, reasons=(f"not better: its mean {log.metric} is {gap} that of {reference.label}",))
    fresh = find_fresh_decision(log, candidate, reference)
    n_fresh = len(candidate.values) - 1
    found = replace(found, rerun_number=fresh.number if n_fresh else 0)
    if noise.sd is None:
        return _cannot_measure(log, found, reference, f"the noise is unknown: {noise.about}")
    if noise.sd == 0:
        return _cannot_measure(log, found, reference, f"the noise is unknown: {noise.about} have one value; does the "
                               "seed change anything, or was one run logged several times?")  # fmt: skip
    evidence = fresh.evidence or compare_with_noise(
        log, candidate.values[0], reference.values, noise, find_one_run_level(found.tries)
    )
    found = replace(found, evidence=evidence)
    if evidence.shows_better:
        return replace(found, verdict="keep", reasons=("the improvement is beyond the noise",), next=_after_keep(log))
    if fresh.evidence is not None and fresh.due is not None:
        more = fresh.due - n_fresh
        return replace(
            found, reasons=(f"not shown: {evidence.n_candidate} fresh runs are within the noise",),
            needed=(("candidate", more),), next=(f"discard it, or decide once more with {more} more runs of it",),
        )  # fmt: skip
    return _ask_for_more(log, found, reference, evidence, fresh.due, n_fresh)


def _ask_for_more(
    log: RunLog, found: Judgement, reference: LoggedConfig, evidence: Evidence, needed: int | None, n_fresh: int
) -> Judgement:
    """Return what is missing for a decision on a candidate that is better by less than a single run can show."""
    if evidence.p > PROMISING_P:
        return replace(found, reasons=("within the noise",), next=("discard it and try something else",))
    kind = "better, but by less than a single run can show" if not n_fresh else "not decided yet"
    if needed is None:
        more = max(1, FEWEST_REPEATS + 2 - len(reference.values))
        ask = _ask_for_runs(log, reference, more, reference.label)
        return replace(found, reasons=(kind,), needed=(("reference", more),), next=(ask,))
    more = needed - n_fresh
    ask = f"run it {more} more time{'s' * (more > 1)} with other seeds, log {_plural(log, more)}, and judge again"
    ask = _ask_for_runs(log, None, more, "it") if log.rerun_command else ask
    return replace(found, reasons=(kind,), needed=(("candidate", more),), next=(ask, "or discard it"))


def _cannot_measure(log: RunLog, found: Judgement, reference: LoggedConfig, reason: str) -> Judgement:
    more = max(1, FEWEST_REPEATS - len(reference.values))
    ask = _ask_for_runs(log, reference, more, reference.label)
    return replace(found, verdict="cannot tell", reasons=(reason,), needed=(("reference", more),), next=(ask,))


def _ask_for_runs(log: RunLog, reference: LoggedConfig | None, more: int, name: str) -> str:
    if log.rerun_command:
        return f"run both on fresh seeds with `{log.rerun_command}`"
    others = f" than {describe_runs(reference.measured, log.unit_name)}" if reference and reference.measured else ""
    return (
        f"add {more} run{'s' * (more > 1)} of {name}, with other seeds{others}, log {_plural(log, more)}, and "
        "judge again; with 5 repeats in all, a candidate needs the fewest runs"
    )


def _after_keep(log: RunLog) -> tuple[str, ...]:
    return (f"keep it: it is what the next change must beat; its own runs are repeats of it in the {log.unit_name}s",)


def _plural(log: RunLog, number: int) -> str:
    return f"each as a {log.unit_name}" if number > 1 else f"it as a {log.unit_name}"


def _count_tries(log: RunLog, candidate: LoggedConfig) -> int:
    """Return the number of changes with a value up to the candidate; the first configuration may be the baseline."""
    has_baseline = any(config.is_baseline for config in log.configs)
    changes = [config for config in log.configs if not config.is_baseline][0 if has_baseline else 1 :]
    return sum(config.first_number <= candidate.first_number and bool(config.values) for config in changes)
