"""Measure speed, memory and losses on one GPU, and on several if there are, in less than 10 minutes.

Each part runs in its own process with a time limit; what it has found until then is kept, also if it fails.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --parts gpt2,ddp --to results.json
    python -m benchmarks.gpu --titles titles.csv --titles-column title
    python -m benchmarks.gpu --toy --device cpu      # every part in seconds, to see that it works
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import MAX_SECONDS, PARTS
from benchmarks.gpu.runner import DONE, SKIPPED, describe_end, format_figure, format_table, run_parts
from benchmarks.gpu.setup import FORMULA
from benchmarks.gpu.worker import Request
from harness.core.distributed import select_device


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="separated by commas; default: %(default)s")
    parser.add_argument("--to", type=Path, default=Path("outputs/gpu.json"), help="file of the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="toy sizes; cpu needs them")
    parser.add_argument("--peak-tflops", type=float, help="dense bf16 peak of a device that is not known")
    parser.add_argument("--titles", help="file of titles for the headlines experiments; default: synthetic ones")
    parser.add_argument("--titles-column", help="of a .csv or .tsv file")
    args = parser.parse_args()
    names = args.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--parts: {', '.join(unknown)}: unknown; choose from {', '.join(PARTS)}")
    if args.device == "cpu" and not args.toy:
        parser.error("--device: cpu: full sizes would take days; add --toy")
    if args.titles and not Path(args.titles).exists():
        parser.error(f"--titles: {args.titles}: no such file")
    try:
        device = select_device(args.device)
    except ValueError as error:
        parser.error(f"--device: {error}".replace("use device=cpu or device=auto", "use --device cpu --toy"))
    titles = str(Path(args.titles).resolve()) if args.titles else None
    request = Request("", "", device, args.toy, args.peak_tflops, titles, args.titles_column)
    command = ["python", "-m", "benchmarks.gpu", *sys.argv[1:]]
    report = run_parts(names, request, args.to, MAX_SECONDS, command)
    print("\n".join(format_report(report)))
    print(f"\nwritten to {args.to}")
    if any(result["status"] not in (DONE, SKIPPED) for result in report["parts"].values()):
        sys.exit(1)


def format_report(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the results: devices, versions, and the table of each part."""
    yield f"\n{report['date']}  {report['command']}{'  (toy sizes)' if report['is_toy'] else ''}"
    yield ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    described = None
    for name, result in report["parts"].items():
        yield ""
        if (device := result.get("device", described)) != described:
            described = device
            yield ", ".join(f"{key} {format_figure(value)}" for key, value in device.items())
        yield describe_end(name, result)
        yield from format_table(result)
    yield f"\n{FORMULA}"
    if described and "peak TFLOP/s" not in described:
        yield "The peak of this device is unknown; give --peak-tflops for the model flops utilization (MFU)."


if __name__ == "__main__":
    main()
