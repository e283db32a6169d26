"""The measurements of other benchmarks, on a GPU: the overhead of a step, and LTG-BERT against BERT."""

import random
import statistics
from collections.abc import Iterator

import torch

from benchmarks import ltg_bert, step_overhead
from benchmarks.gpu.setup import Row, Setup, release_memory

STEP_MS = 5.0  # of the bare loop


def measure_step_overhead(setup: Setup) -> Iterator[Row]:
    """Time the three loops in turn, at as many layers as make a step of the bare loop take 5 ms."""
    n_steps, n_rounds, probed = (10, 1, 1) if setup.is_toy else (300, 4, 4)
    stream = torch.randint(step_overhead.VOCABULARY, (200_000,), generator=torch.Generator().manual_seed(0))
    text = setup.folder / "text.txt"
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(2000)]
    text.write_text(" ".join(generator.choices(words, k=60_000)))
    probe = step_overhead.Scale(batch=4, steps=n_steps, layers=probed, device=setup.device)
    step_overhead.run_bare_loop(stream, probe)  # imports and kernels
    times = step_overhead.run_bare_loop(stream, probe)
    milliseconds = step_overhead.milliseconds_per_step(times, n_steps // 2)
    layers = 1 if setup.is_toy else max(1, round(probed * STEP_MS / milliseconds))
    scale = step_overhead.Scale(batch=4, steps=n_steps, layers=layers, device=setup.device)
    arms = step_overhead.make_arms(stream, text, scale, setup.folder)
    found = step_overhead.measure_rounds(arms, scale, n_rounds)
    for arm, values in found.items():
        ratios = [value / base for value, base in zip(values, found["bare loop"], strict=True)]
        yield {
            "arm": arm,
            "ms/step": statistics.median(values),
            "x bare loop": statistics.median(ratios),
            "range": f"{min(ratios):.3f} to {max(ratios):.3f}",
            "layers": float(layers),
        }


def measure_ltg_bert(setup: Setup) -> Iterator[Row]:
    """Time LTG-BERT base and a BERT of the same sizes in bf16, in turn; both also compiled."""
    sizes = ltg_bert.Sizes(64, 1, 2, 64) if setup.is_toy else ltg_bert.Sizes(768, 12, 12, 2048)
    batch, n_rounds = (2, 1) if setup.is_toy else (128, 10)
    generator = torch.Generator().manual_seed(0)
    base: list[float] = []
    flops: dict[str, int] = {}
    for compiled in [False] if setup.is_toy else [False, True]:
        arms = {
            "BERT": ltg_bert.make_theirs(sizes, setup.device, torch.bfloat16),
            "LTG-BERT": ltg_bert.make_ours(sizes, setup.device, torch.bfloat16),
        }
        for name, arm in arms.items():
            if compiled:
                arm.model.compile()
            else:
                flops[name] = arm.count_flops(ltg_bert.random_batch(2, generator))
        for _ in range(n_rounds + 2):
            rows = ltg_bert.random_batch(batch, generator)
            for arm in arms.values():
                arm.step(rows)
        base = base or arms["BERT"].seconds[2:]  # without the first two steps
        for name, arm in arms.items():
            ratios = [theirs / seconds for theirs, seconds in zip(base, arm.seconds[2:], strict=True)]
            yield {
                "arm": f"{name}, compiled" if compiled else name,
                "tokens/s": statistics.median(batch * ltg_bert.LENGTH / seconds for seconds in arm.seconds[2:]),
                "x BERT": statistics.median(ratios),
                "range": f"{min(ratios):.3f} to {max(ratios):.3f}",
                "x matrix products": flops[name] / flops["BERT"],
                "first step s": arm.seconds[0],
            }
        del arms, arm
        release_memory(setup.device)
