from harness.evidence.judging.error_budget import find_rerun_level
from harness.evidence.judging.fresh_decisions import find_fresh_decision
from tests.evidence.judging.loops import make_log, make_run

REPEATS = [("baseline", value) for value in (0.0, 1.0, 0.5, 0.2, 0.8)]


def decide(*runs: tuple[str, float], candidate: str):
    log = make_log(*(make_run(number, *run) for number, run in enumerate([*REPEATS, *runs], 1)))
    configs = {config.key: config for config in log.configs}
    return find_fresh_decision(log, configs[candidate], configs["baseline"])


def test_a_decision_is_due_with_the_needed_runs_without_the_first() -> None:
    before = decide(("a", -9), ("a", -1), ("a", -1.2), candidate="a")
    assert (before.evidence, before.number, before.due) == (None, 1, 3)
    found = decide(("a", -9), ("a", -1), ("a", -1.2), ("a", -1.1), candidate="a")
    assert found.evidence is not None
    assert (found.evidence.n_candidate, found.evidence.shows_better, found.due) == (3, True, 6)


def test_decisions_count_in_the_order_in_which_they_were_due() -> None:
    """A candidate that is older and was rerun later takes the later level."""
    first = [("a", -1), ("b", -1), *[("b", value) for value in (0.3, 0.6, 0.9)]]
    found = decide(*first, *[("a", value) for value in (-2, -2.1, -2.2, -1.9, -1.8)], candidate="a")
    assert found.evidence is not None
    assert (found.number, found.evidence.level) == (2, find_rerun_level([False]))
    other = decide(*first, *[("a", value) for value in (-2, -2.1, -2.2, -1.9, -1.8)], candidate="b")
    assert other.evidence is not None
    assert (other.number, other.evidence.level) == (1, find_rerun_level([]))


def test_the_level_of_a_candidate_that_was_shown_passes_on() -> None:
    kept = [("a", -2), ("a", -2), ("a", -2.1), ("a", -2.2)]
    found = decide(*kept, ("b", -2), ("b", -2), ("b", -2.1), ("b", -2.2), candidate="b")
    assert found.evidence is not None
    assert found.evidence.level == find_rerun_level([True])
