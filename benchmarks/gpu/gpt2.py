"""Tokens per second of GPT-2 124M in bf16: our Trainer, a bare loop and transformers.Trainer; several devices."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional as F

from benchmarks.gpu.harness_run import train
from benchmarks.gpu.setup import Row, Setup, StepClock, make_token_data, measure_peak
from harness.core.distributed import ProcessGroup
from harness.data.tokens import TokenData, get_example_indices
from harness.models.gpt import GPT
from harness.tasks.causal_lm import CausalLM

LR, CLIP, DECAY = 3e-4, 1.0, 0.01
SETTINGS = ("precision=bf16", f"optimizer.lr={LR}", f"optimizer.weight_decay={DECAY}")
LARGE_MEMORY = 64 * 2**30  # bytes; from here on a batch has 32 rows, below it 8


@dataclass(frozen=True)
class Scale:
    """Sizes of the model, of a batch in rows, and of a measurement in steps."""

    vocabulary: int
    length: int
    layers: int
    width: int
    heads: int
    batch: int
    n_steps: int
    n_skipped: int
    padded_vocabulary: int

    def build_model(self, vocabulary: int | None = None, **settings: Any) -> GPT:
        torch.manual_seed(0)
        return GPT(
            vocab_size=vocabulary or self.vocabulary, positions=self.length, layers=self.layers, width=self.width,
            heads=self.heads, dropout=0.0, **settings,
        )  # fmt: skip

    def make_task(self, vocabulary: int | None = None, n_rows: int = 256, **settings: Any) -> CausalLM:
        return CausalLM(self.build_model(vocabulary, **settings), self.make_data(n_rows))

    def make_data(self, n_rows: int = 256) -> TokenData:
        return make_token_data(self.vocabulary, self.length, n_rows)

    def count_model_flops(self) -> int:
        """Return the floating-point operations per token, forward and backward; see FORMULA in setup.py."""
        with torch.device("meta"):
            model = self.build_model()
        n_parameters = sum(each.numel() for each in model.parameters()) - model.position_embedding.weight.numel()
        return 6 * n_parameters + 12 * self.layers * self.width * self.length


TOY = Scale(256, 32, layers=2, width=32, heads=2, batch=2, n_steps=4, n_skipped=2, padded_vocabulary=320)


def choose_scale(setup: Setup) -> Scale:
    """Return GPT-2 124M with a batch that fits the device, or a toy."""
    if setup.is_toy:
        return TOY
    is_large = torch.cuda.get_device_properties(setup.device).total_memory >= LARGE_MEMORY
    batch = 32 if is_large else 8
    return Scale(50_257, 1024, 12, 768, 12, batch, n_steps=20, n_skipped=5, padded_vocabulary=50_304)


def measure_eager(setup: Setup) -> Iterator[Row]:
    return compare_loops(setup, is_compiled=False)


def measure_compiled(setup: Setup) -> Iterator[Row]:
    return compare_loops(setup, is_compiled=True)


def compare_loops(setup: Setup, is_compiled: bool) -> Iterator[Row]:
    """Measure the arms one after the other, on random tokens, with AdamW (fused) and clipping."""
    scale, base = choose_scale(setup), None
    padded = scale.padded_vocabulary
    arms = {
        "bare loop": lambda: run_bare_loop(setup, scale, is_compiled, reads_loss=True),
        "ours": lambda: run_ours(setup, scale, is_compiled),
        "transformers.Trainer": lambda: run_transformers_trainer(setup, scale, is_compiled),
        f"ours, vocabulary {padded}": lambda: run_ours(setup, scale, is_compiled, padded),
        "bare loop, loss not read": lambda: run_bare_loop(setup, scale, is_compiled, reads_loss=False),
    }
    for arm, run in arms.items():
        clock, peak_gib = run()
        base = base or clock.seconds_per_step
        row = describe_speed(arm, clock, scale.batch, scale, setup)
        yield row | {"x bare loop": base / clock.seconds_per_step, "peak GiB": peak_gib}


def describe_speed(
    arm: str, clock: StepClock, batch: int, scale: Scale, setup: Setup, n_devices: int = 1
) -> dict[str, Any]:
    """Return the row of an arm; without the utilization if the peak of the device is unknown."""
    tokens_per_second = batch * scale.length / clock.seconds_per_step
    row: dict[str, Any] = {"arm": arm, "tokens/s": tokens_per_second, "ms/step": 1000 * clock.seconds_per_step}
    peak = setup.peak_tflops
    if peak is not None:
        row["MFU %"] = 100 * tokens_per_second * scale.count_model_flops() / (peak * 1e12 * n_devices)
    return row


def run_bare_loop(setup: Setup, scale: Scale, is_compiled: bool, reads_loss: bool) -> tuple[StepClock, float]:
    """Run the shortest loop with the same math; `reads_loss` waits for the loss of each step, as our loop does."""
    data, clock = scale.make_data(), StepClock(setup.device, scale.n_steps, scale.n_skipped)
    with measure_peak(setup.device) as peak:
        model = scale.build_model().to(setup.device).train()
        if is_compiled:
            model.compile()
        groups = [
            {"params": [each for each in model.parameters() if each.ndim >= 2]},
            {"params": [each for each in model.parameters() if each.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=LR, weight_decay=DECAY, fused=True)
        for step in range(scale.n_steps):
            rows = get_example_indices(step * scale.batch, scale.batch, len(data.train), 0, False)
            batch = data.train.make_batch(rows)
            inputs, targets = batch.inputs.to(setup.device), batch.targets.to(setup.device)
            optimizer.zero_grad()
            with torch.autocast(setup.device.type, torch.bfloat16):
                loss = F.cross_entropy(model(inputs).logits.flatten(0, 1), targets.flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            if reads_loss:
                loss.item()
            clock.tick()
        del model, optimizer, loss
    return clock, peak.gib


def run_ours(setup: Setup, scale: Scale, is_compiled: bool, vocabulary: int | None = None) -> tuple[StepClock, float]:
    settings = [*SETTINGS, f"compile={str(is_compiled).lower()}", f"batch.batch_size={scale.batch}"]
    training = train(setup, lambda: scale.make_task(vocabulary), settings, scale.n_steps, scale.n_skipped)
    return training.clock, training.peak_gib


def run_transformers_trainer(setup: Setup, scale: Scale, is_compiled: bool) -> tuple[StepClock, float]:
    """Run transformers.Trainer on GPT2LMHeadModel with the same sizes; its loss leaves out the first token of a row."""
    import transformers

    clock = StepClock(setup.device, scale.n_steps, scale.n_skipped)

    class StepTimer(transformers.TrainerCallback):
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            clock.tick()

    rows = scale.make_data().train
    tokens = torch.from_numpy(rows.stream[: len(rows) * scale.length]).view(-1, scale.length)
    sizes = {"n_positions": scale.length, "n_embd": scale.width, "n_layer": scale.layers, "n_head": scale.heads}
    off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    with measure_peak(setup.device) as peak:
        config = transformers.GPT2Config(
            vocab_size=scale.vocabulary, use_cache=False, bos_token_id=0, eos_token_id=0, **sizes, **off
        )
        arguments = transformers.TrainingArguments(
            output_dir=str(setup.folder / "trainer"), max_steps=scale.n_steps, learning_rate=LR, weight_decay=DECAY,
            max_grad_norm=CLIP, per_device_train_batch_size=scale.batch, bf16=True, torch_compile=is_compiled,
            optim="adamw_torch_fused", lr_scheduler_type="cosine", logging_steps=10, report_to="none",
            save_strategy="no", disable_tqdm=True, use_cpu=setup.device.type == "cpu",
        )  # fmt: skip
        trainer = transformers.Trainer(
            transformers.GPT2LMHeadModel(config), arguments, callbacks=[StepTimer()],
            train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
        )  # fmt: skip
        trainer.train()
        del trainer
    return clock, peak.gib


def measure_ddp(setup: Setup) -> Iterator[Row]:
    return measure_several(setup, "ddp")


def measure_fsdp(setup: Setup) -> Iterator[Row]:
    return measure_several(setup, "fsdp")


def measure_several(setup: Setup, parallel: str) -> Iterator[Row]:
    """Measure one device alone, then all of them, with the same number of rows on each."""
    scale, processes, alone = choose_scale(setup), setup.processes, None
    n_rows = max(256, scale.batch * processes.size)
    if processes.is_main:
        single = ProcessGroup(setup.device)
        settings = [*SETTINGS, f"batch.batch_size={scale.batch}"]
        training = train(setup, scale.make_task, settings, scale.n_steps, scale.n_skipped, processes=single)
        alone = training.tokens_per_second
        row = describe_speed("one device", training.clock, scale.batch, scale, setup)
        yield row | {"peak GiB": training.peak_gib}
    dist.barrier()
    batch = scale.batch * processes.size
    settings = [*SETTINGS, f"parallel={parallel}", f"batch.batch_size={batch}"]
    training = train(setup, lambda: scale.make_task(n_rows=n_rows), settings, scale.n_steps, scale.n_skipped)
    if alone is not None:
        row = describe_speed(f"{processes.size} devices", training.clock, batch, scale, setup, processes.size)
        speed_up = training.tokens_per_second / alone
        yield row | {"x one device": speed_up, "efficiency %": 100 * speed_up / processes.size,
                     "peak GiB": training.peak_gib}  # fmt: skip


def measure_checkpointing(setup: Setup) -> Iterator[Row]:
    """Measure memory and speed without and with activation checkpointing."""
    scale, base = choose_scale(setup), None
    settings = [*SETTINGS, f"batch.batch_size={scale.batch}"]
    for arm, is_on in (("activations kept", False), ("activations recomputed", True)):
        training = train(
            setup,
            lambda is_on=is_on: scale.make_task(gradient_checkpointing=is_on),
            settings,
            scale.n_steps,
            scale.n_skipped,
        )
        base = base or training
        yield {
            "arm": arm, "peak GiB": training.peak_gib, "tokens/s": training.tokens_per_second,
            "x memory": training.peak_gib / base.peak_gib if base.peak_gib else 1.0,
            "x speed": training.tokens_per_second / base.tokens_per_second,
        }  # fmt: skip
