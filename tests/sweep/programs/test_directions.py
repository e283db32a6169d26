"""Notes on metrics that are searched in the direction that their names speak against."""

import pytest

from harness.sweep.programs.directions import note_doubtful_direction

MORE_IS_BETTER = "accuracy val/acc eval_f1 testAUC mAP map50 top1 top-5 ep_rew_mean win_rate r2 mIoU val_acc_top1"
LESS_IS_BETTER = "val_loss error test/rmse perplexity val_bpb wer top1_error mlm_loss"


@pytest.mark.parametrize("name", [*MORE_IS_BETTER.split(), "win rate"])
def test_metrics_of_which_more_is_better(name: str) -> None:
    assert note_doubtful_direction(name, "minimize", "add --maximize") == (
        f"the sweep is to minimize {name}: if more is better, add --maximize"
    )
    assert note_doubtful_direction(name, "maximize", "leave out --maximize") == ""


@pytest.mark.parametrize("name", LESS_IS_BETTER.split())
def test_metrics_of_which_less_is_better(name: str) -> None:
    assert note_doubtful_direction(name, "minimize", "add --maximize") == ""
    assert note_doubtful_direction(name, "maximize", "leave out --maximize") == (
        f"the sweep is to maximize {name}: if less is better, leave out --maximize"
    )


@pytest.mark.parametrize("name", ["x", "steps", "my_quantity", "time", "accident"])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_other_names_say_nothing(name: str, direction: str) -> None:
    assert note_doubtful_direction(name, direction, "") == ""  # type: ignore[arg-type]
