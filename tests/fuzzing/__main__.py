"""Run fuzzed lines and count the failures: python -m tests.fuzzing SEED FIRST [LAST]."""

import os
import shlex
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzzing.sandbox import make_line, open_sandbox


def main(seed: int, first: int, last: int) -> None:
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as root, open_sandbox(Path(root)) as sandbox:
        print(f"sandbox: {time.process_time():.1f} s", flush=True)
        for index in range(first, last + 1):
            line, started_at = make_line(seed, index), time.process_time()
            outcome = sandbox.try_line(line, f"{seed}:{index}")
            seconds = time.process_time() - started_at
            counts[f"{line.generator}"] += 1
            counts[f"{line.generator} status {outcome.status if isinstance(outcome.status, int) else 'raised'}"] += 1
            for kind in outcome.problems:
                counts[f"{line.generator}: {kind}"] += 1
            if outcome.problems or first == last or os.environ.get("FUZZ_VERBOSE"):
                print(f"--- {seed} {index} {line.generator} {line.kind} {line.damage or ''} ({seconds:.2f} s)")
                print(f"plateau {shlex.join(line.command)[:1500]}")
                print(
                    f"status {outcome.status if isinstance(outcome.status, int) else 'raised'}:", outcome.output[-1500:]
                )
                print(*(f"{kind}: {text[-2500:]}" for kind, text in outcome.problems.items()), sep="\n", flush=True)
    print(*(f"{name:<28}{count}" for name, count in sorted(counts.items())), sep="\n")
    print(f"{time.process_time():.1f} CPU seconds")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[-1]))
