"""The training loop and its parts: policies, checkpoints, optimizers, schedules, losses and LoRA."""
