"""Validation curves of runs over one axis."""

import math

from harness.diagnosis.history import History, RunFacts
from harness.evidence.comparing.loss_curves import make_loss_curves


def make_history(losses: list[float], **facts: object) -> History:
    history = History(RunFacts(**facts))  # type: ignore[arg-type]
    history.add_points("val/loss", [(10 * (index + 1), loss) for index, loss in enumerate(losses)])
    return history


def test_axis_is_tokens_only_if_all_runs_have_them() -> None:
    counted = make_history([4, 3], tokens_per_step=100.0, unit="nats/token")
    curves = make_loss_curves([("A", counted), ("B", make_history([4, math.nan, 2], tokens_per_step=50.0))])
    assert curves is not None
    assert (curves.x_label, curves.y_label) == ("tokens", "validation loss")
    assert [line.x for line in curves.lines] == [(1000.0, 2000.0), (500.0, 1500.0)]
    curves = make_loss_curves([("A", counted), ("B", make_history([4, 3], unit="nats/token"))])
    assert curves is not None
    assert (curves.x_label, curves.y_label) == ("steps", "validation loss (nats/token)")


def test_logs_that_count_epochs_are_drawn_by_epochs() -> None:
    epochs = make_history([4, 3], steps_unit="epochs", steps_per_epoch=10.0, epoch_offset=1)
    curves = make_loss_curves([("A", epochs)])
    assert curves is not None
    assert curves.x_label == "epochs"
    assert curves.lines[0].x == (0.0, 1.0)
    assert make_loss_curves([("A", epochs), ("B", make_history([4, 3]))]) is None


def test_one_evaluation_is_no_curve() -> None:
    assert make_loss_curves([("A", make_history([4]))]) is None
