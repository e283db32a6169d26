"""Check the optimizer's groups: each parameter once, decay where it is meant, and the state of a resumed run."""

from collections import Counter
from collections.abc import Iterator

from harness.preflight.probe import format_names, is_plateau_scheduler, named_param_groups
from harness.preflight.report import Finding, failed, passed, skipped, warned
from harness.preflight.training_setup import TrainingSetup


def check(setup: TrainingSetup) -> Iterator[Finding]:
    if not setup.optimizer_list:
        yield skipped("parameter groups", "needs `optimizer`")
        return
    yield _check_single_owner(setup)
    yield _check_decayed_vectors(setup)
    if setup.requested.completed_steps > 0:
        yield _check_resumed_optimizer(setup)
        yield from _check_resumed_scheduler(setup)


def _check_single_owner(setup: TrainingSetup) -> Finding:
    """Check that no parameter is in two groups or two optimizers, which would update it twice per step."""
    title, names = "parameters held once", {id(weight): name for name, weight in setup.model.named_parameters()}
    groups = named_param_groups(setup)
    counts = Counter(id(parameter) for _, group in groups for parameter in group["params"])
    doubled = [names.get(key, "one that is not in the model") for key, count in counts.items() if count > 1]
    if not doubled:
        return passed(title, f"{len(counts)} parameters in {len(groups)} groups")
    observed = f"{len(doubled)} are updated twice in each step, as they are in two groups or two optimizers: "
    hint = "Give each parameter to one optimizer; a tied weight has two names and is one parameter"
    return failed(title, observed + format_names(doubled), "each in one group", hint)


def _check_decayed_vectors(setup: TrainingSetup) -> Finding:
    """Warn if norms and biases are decayed although the groups show that some parameters should be spared."""
    title, groups = "decayed norms and biases", named_param_groups(setup)
    names = {id(weight): name for name, weight in setup.model.named_parameters()}
    decays = {float(group.get("weight_decay") or 0.0) for _, group in groups}
    by_optimizer = [{group.get("weight_decay") for group in each.param_groups} for each in setup.optimizer_list]
    is_selective = (
        max(map(len, by_optimizer)) > 1 or setup.requested.weight_decay or any("decay" in name for name, _ in groups)
    )
    if not is_selective or not any(decays):
        return passed(title, f"weight decay {', '.join(f'{decay:g}' for decay in sorted(decays))} in all groups")
    decayed = [
        names.get(id(parameter), "a parameter that is not in the model")
        for _, group in groups
        if group.get("weight_decay")
        for parameter in group["params"]
        if parameter.ndim < 2
    ]
    if not decayed:
        return passed(title, "none")
    hint = "The names that are spared may be those of another model; spare all parameters with fewer than 2 dimensions"
    return warned(title, f"{len(decayed)}: {format_names(decayed)}", "none, as other parameters are spared", hint)


def _check_resumed_optimizer(setup: TrainingSetup) -> Finding:
    title, steps = "optimizer of a resumed run", setup.requested.completed_steps
    has_state = [bool(optimizer.state) for optimizer in setup.optimizer_list]
    is_stateless = [_keeps_no_state(optimizer) for optimizer in setup.optimizer_list]
    if all(state or empty for state, empty in zip(has_state, is_stateless, strict=True)):
        return passed(title, f"has a state after {steps} steps")
    hint = "Save and load optimizer.state_dict(), after the optimizer is made, beside the model"
    observed = f"empty state after {steps} completed steps: the optimizer was not restored"
    return failed(title, observed, "moments from the checkpoint", hint)


def _keeps_no_state(optimizer: object) -> bool:
    groups = getattr(optimizer, "param_groups", [])
    return type(optimizer).__name__ == "SGD" and not any(group.get("momentum") for group in groups)


def _check_resumed_scheduler(setup: TrainingSetup) -> Iterator[Finding]:
    title, steps = "scheduler of a resumed run", setup.requested.completed_steps
    for scheduler in setup.scheduler_list:
        if is_plateau_scheduler(scheduler):
            continue
        position = scheduler.last_epoch
        if position == 0:
            hint = "Load scheduler.state_dict(), or pass last_epoch; otherwise the warm-up and the peak are repeated"
            observed = f"at step 0 after {steps} completed steps: the schedule was not restored"
            yield failed(title, observed, f"step {steps}", hint)
        else:
            yield passed(title, f"at step {position} after {steps} steps")
