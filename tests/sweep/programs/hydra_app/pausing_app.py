"""An app with a plain loop of torch that saves checkpoints and reports them, and what it does without a sweep."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.sweep.reporting import receive_reports
from tests.sweep.test_reporting import Notes

APP = """
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig

from harness.sweep import report, resume_from

STEPS = 50


def train(cfg, folder):
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    inputs = torch.randn(64, 4)
    targets = inputs.sum(dim=1, keepdim=True)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg["lr"], momentum=0.9)
    first = 1
    if path := resume_from():
        state = torch.load(path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        first = state["step"] + 1
    print("TRAINING from step", first, flush=True)
    for step in range(first, STEPS + 1):
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 2 == 0:
            checkpoint = folder / cfg["file"].format(step=step)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "random": torch.get_rng_state(), "step": step}, checkpoint)
            report(loss, step=step, total_steps=STEPS, checkpoint=checkpoint)
            time.sleep(cfg["seconds"])
    return loss.item()


@hydra.main(config_path=".", config_name="settings")
def main(cfg):
    return train(cfg, Path(cfg.folder or HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
"""
SETTINGS = "lr: 0.01\nseconds: 0\nfile: 'step-{step}.pt'\nfolder: null\n"


def write_pausing_app(folder: Path) -> Path:
    """Write app.py and settings.yaml to a folder, and return that of its sweep."""
    (folder / "app.py").write_text(APP)
    (folder / "settings.yaml").write_text(SETTINGS)
    return folder / "multirun/app"


def train_without_pauses(folder: Path, lr: float) -> Notes:
    """Return what the app reports with a learning rate if nothing interrupts it."""
    spec = importlib.util.spec_from_file_location("pausing_app_script", folder / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    train: Callable[..., Any] = module.train
    notes = Notes()
    (folder / "alone").mkdir(exist_ok=True)
    with receive_reports(notes):
        train({"lr": lr, "seconds": 0, "file": "step-{step}.pt"}, folder / "alone")
    return notes
