"""Behaviour at limits: batches that do not fit the memory of the device, and gradients that overflow in float16."""

import math
from collections.abc import Iterator

import torch

from benchmarks.gpu.gpt2 import SETTINGS, Scale, choose_scale
from benchmarks.gpu.harness_run import Training, train
from benchmarks.gpu.setup import Row, Setup, make_token_data
from harness.core.task import Loss
from harness.data.tokens import TokenBatch
from harness.models.gpt import GPT
from harness.run.build import RunParts
from harness.tasks.causal_lm import CausalLM

BYTES_PER_LOGIT = 4  # the loss is computed from float32
N_WORDS = 64  # distinct tokens; a uniform guess among them has a loss of ln 64 = 4.16 nats
LARGE_SCALE = 2.0**32  # of the gradients; the first updates overflow


class LimitedMemoryTask(CausalLM):
    """Stands in for a full device on a CPU, whose allocator does not raise OutOfMemoryError."""

    LIMIT = 2  # rows per forward pass

    def compute_loss(self, batch: TokenBatch) -> Loss:
        if len(batch) > self.LIMIT:
            raise torch.OutOfMemoryError(f"{len(batch)} rows are more than {self.LIMIT}")
        return super().compute_loss(batch)


def measure_out_of_memory(setup: Setup) -> Iterator[Row]:
    """Train with a batch whose logits alone exceed the memory, then with the micro-batch that it ended with."""
    scale, n_steps = choose_scale(setup), 2
    batch = choose_oversized_batch(setup, scale)
    kind = CausalLM if setup.device.type == "cuda" else LimitedMemoryTask
    first_loss = None

    def make_task() -> CausalLM:
        return kind(scale.build_model(), scale.make_data(batch))

    settings = [*SETTINGS, f"batch.batch_size={batch}"]
    shrunk = train(setup, make_task, settings, n_steps, 1)
    if len(shrunk.micro_batch_sizes) == 1:
        raise RuntimeError(f"{batch} x {scale.length} tokens fit into memory")
    settings.append(f"batch.micro_batch_size={shrunk.micro_batch_sizes[-1]}")
    for arm, training in (("shrunk", shrunk), ("small from the start", train(setup, make_task, settings, n_steps, 1))):
        first_loss = first_loss or training.steps[0].loss
        yield {
            "arm": arm,
            "micro-batches": " > ".join(map(str, training.micro_batch_sizes)),
            "first loss": training.steps[0].loss,
            "difference": training.steps[0].loss - first_loss,
            "first step s": training.steps[0].seconds,
            "second step s": training.clock.seconds_per_step,
            "peak GiB": training.peak_gib,
        }


def choose_oversized_batch(setup: Setup, scale: Scale) -> int:
    """Return the smallest power of two whose logits exceed the memory of the device."""
    if setup.device.type != "cuda":
        return 4 * LimitedMemoryTask.LIMIT
    memory = torch.cuda.get_device_properties(setup.device).total_memory
    return 2 ** math.ceil(math.log2(memory / (scale.length * scale.vocabulary * BYTES_PER_LOGIT)))


def measure_precisions(setup: Setup) -> Iterator[Row]:
    """Train the 27M model in each precision, in fp16 also from a gradient scale at which updates overflow."""
    n_steps, n_skipped = (8, 2) if setup.is_toy else (100, 40)
    batch, length, layers, width, vocabulary = (2, 16, 1, 32, 128) if setup.is_toy else (64, 128, 6, 512, 16_000)

    def make_task() -> CausalLM:
        torch.manual_seed(0)
        model = GPT(vocab_size=vocabulary, positions=length, layers=layers, width=width, heads=8, dropout=0.0)
        return CausalLM(model, make_token_data(vocabulary, length, 10 * batch, N_WORDS))

    def enlarge_scale(parts: RunParts) -> None:
        parts.state.scaler = torch.amp.GradScaler(setup.device.type, init_scale=LARGE_SCALE)

    def run(precision: str, prepare=lambda parts: None) -> Training:
        settings = [f"precision={precision}", "optimizer.lr=1e-3", f"batch.batch_size={batch}"]
        return train(setup, make_task, settings, n_steps, n_skipped, prepare=prepare)

    base = run("fp32")
    arms = {
        "fp32": lambda: base,
        "bf16": lambda: run("bf16"),
        "fp16": lambda: run("fp16"),
        "fp16, first scale 2^32": lambda: run("fp16", enlarge_scale),
    }
    for arm, measure in arms.items():
        training = measure()
        yield {
            "arm": arm,
            "loss at the end": training.steps[-1].loss,
            "difference to fp32": training.steps[-1].loss - base.steps[-1].loss,
            "updates skipped": float(sum(step.skips > 0 for step in training.steps)),
            "scale at the end": training.scale,
            "x speed": training.tokens_per_second / base.tokens_per_second,
        }
