"""Check the training step: it applies the gradient of the loss, once, to every trainable parameter."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from harness.core.seeding import get_rng_state
from harness.preflight.outputs import locked_eval_mode
from harness.preflight.probe import (
    ROUNDING,
    advance_to_peak,
    affordable_repeats,
    affordable_tokens,
    measure_resolution,
    needs_closure,
    subsample_batch,
)
from harness.preflight.report import Finding, passed, skipped, warned
from harness.preflight.step_coverage import LIST_SCALER, MAX_SKIPPED, check_coverage
from harness.preflight.step_gradients import StepComparison
from harness.preflight.step_recorder import StepRecord, choose_step_batches, compute_true_gradients, recorded_step
from harness.preflight.training_setup import TrainingSetup

COMPARED_STEPS = 3


def check(setup: TrainingSetup) -> Iterator[Finding]:
    if not setup.trainable_parameters:
        yield skipped("training step", "needs a trainable parameter")
        return
    with setup.preserved_state():
        compared = _compare_gradients(setup)
    yield compared
    if compared.level == "fail":
        return
    with setup.preserved_state():
        yield from check_coverage(setup)
    with setup.preserved_state():
        yield from _check_mode(setup)


def _compare_gradients(setup: TrainingSetup) -> Finding:
    """Compare what reaches the optimizer with the gradient of the loss at the same weights, in eval mode."""
    title = "gradient of the step"
    if setup.train_step is None or not setup.optimizer_list:
        return skipped(title, "needs `train_step` and `optimizer`")
    if any(map(needs_closure, setup.optimizer_list)):
        return skipped(title, "needs an optimizer that gets its gradients before its step; L-BFGS computes them itself")
    advance_to_peak(setup)
    with locked_eval_mode(setup.model):
        batches = choose_step_batches(setup)
        compared = StepComparison(measure_resolution(setup, batches[0]))
        for index in range(COMPARED_STEPS + MAX_SKIPPED):
            batch = batches[len(compared.steps) % len(batches)]
            expected = compute_true_gradients(setup, batch)
            if expected is None:
                return skipped(
                    title, "needs a loss that depends on the trainable parameters and draws no random numbers"
                )
            torch.manual_seed(0)
            generators = _list_generator_states()
            with recorded_step(setup) as record:
                setup.run_user_code("train_step", batch)
            compared.draws_random_numbers |= generators != _list_generator_states()
            if not record.updates:
                if record.raw and any(not torch.isfinite(each).all() for each in record.raw.values()):
                    if not any(isinstance(part, torch.amp.GradScaler) for part in setup.extra_state):
                        observed = "gradients are not finite, and the update was skipped"
                        return warned(title, observed, "finite gradients", LIST_SCALER)
                    continue  # a gradient scaler skips the update
                if not record.raw or index >= MAX_SKIPPED or not setup.extra_state:
                    return skipped(
                        title, f"needs optimizer.step() in `train_step`; it made {_describe_updates(record)}"
                    )
                continue
            if not record.is_single_update:
                return skipped(title, f"needs one update in `train_step`; it made {_describe_updates(record)}")
            if record.alternates and len(setup.optimizer_list) > 1:
                return skipped(
                    title, "needs one loss for all optimizers; the step updates them in turn, each after its own"
                )
            compared.add_step(expected, record)
            del expected, record  # as large as the model
            if len(compared.steps) == affordable_repeats(setup.model, COMPARED_STEPS):
                break
    return compared.judge(title)


def _list_generator_states() -> list[Any]:
    values = [each for state in get_rng_state().values() for each in (state if isinstance(state, list) else [state])]
    return [each.tolist() if isinstance(each, torch.Tensor) else each for each in values]


def _describe_updates(record: StepRecord) -> str:
    return f"{sum(record.updates.values())} updates" if record.updates else "none"


def _check_mode(setup: TrainingSetup) -> Iterator[Finding]:
    """Check that steps train in training mode, from the mode as found and after an evaluation."""
    title, batch = "training mode", subsample_batch(setup, setup.batches[0], affordable_tokens(setup.model))
    if setup.train_step is None:
        yield skipped(title, "needs `train_step`")
        return
    if not (layers := _describe_active_layers(setup, batch)):
        yield skipped(title, "needs dropout, batch norm or another difference between training and eval mode")
        return
    hint = "Call model.train() in the training step, or at the end of the evaluation; if the loop calls it, give "
    hint += "preflight the model in training mode"
    for when in ("", "after an evaluation, "):
        if when:
            setup.run_evaluation(16)
        with recorded_step(setup, keeps_gradients=False) as record:
            setup.run_user_code("train_step", batch)
        if not record.n_forwards:
            yield skipped(title, "needs a step that calls the model itself, not only parts of it")
            return
        if not record.was_training:
            yield warned(title, f"{when}the step trains in eval mode: {layers} off", "training mode", hint)
            return
        if setup.evaluate is None:
            yield passed(title, "on in the step; not checked after an evaluation, which needs `evaluate`")
            return
    yield passed(title, "restored after an evaluation")


def _describe_active_layers(setup: TrainingSetup, batch: Any) -> str:
    """Return what differs between training and eval mode, such as `2 layers of dropout or batch norm are`."""
    active = [
        module for module in setup.model.modules()
        if (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
        or isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]  # fmt: skip
    if active:
        return f"{len(active)} layers of dropout or batch norm are"
    losses, modes = [], [(module, module.training) for module in setup.model.modules()]
    with torch.no_grad():
        for mode in (True, False):
            setup.model.train(mode)
            torch.manual_seed(0)
            losses.append(setup.compute_loss(batch).item())
    for module, was_training in modes:
        module.training = was_training
    return "" if math.isclose(*losses, rel_tol=ROUNDING) else "what training mode adds to the loss is"
