"""Process of one part: python -m benchmarks.gpu.worker REQUEST, which runner.py starts."""

import json
import sys
import traceback
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.gpu.setup import Row, Setup, describe_devices, find_peak_tflops
from harness.core.distributed import abandon_process_group, join_process_group, leave_process_group
from harness.core.files import write_atomically


@dataclass(frozen=True)
class Request:
    """Function that a process calls, and its settings; results are written into `folder`."""

    function: str
    folder: str
    device: str
    is_toy: bool
    peak_tflops: float | None
    titles: str | None
    titles_column: str | None

    def write(self) -> Path:
        path = Path(self.folder, "request.json")
        path.write_text(json.dumps(asdict(self)))
        return path


def rows_file(folder: Path) -> Path:
    """Return the file with the device and the rows so far."""
    return folder / "rows.json"


def error_file(folder: Path) -> Path:
    """Return the file with the first error of a process, in one line."""
    return folder / "error.txt"


def main() -> None:
    request = Request(**json.loads(Path(sys.argv[1]).read_text()))
    folder = Path(request.folder)
    try:
        measure_part(request, folder)
    except Exception as error:
        traceback.print_exc()
        if not error_file(folder).exists():
            error_file(folder).write_text(f"{type(error).__name__}: {error}".splitlines()[0])
        abandon_process_group()
        sys.exit(1)
    leave_process_group()


def measure_part(request: Request, folder: Path) -> None:
    """Call the function of a part; the main process writes each row as soon as it is known."""
    processes = join_process_group(request.device)
    if request.is_toy:
        torch.set_num_threads(1)
    peak = request.peak_tflops
    if peak is None and processes.device.type == "cuda":
        peak = find_peak_tflops(torch.cuda.get_device_name(processes.device))
    setup = Setup(processes, folder, request.is_toy, peak, request.titles, request.titles_column)
    device, rows = describe_devices(setup), list[Row]()
    module, name = request.function.rsplit(".", 1)
    for row in getattr(import_module(module), name)(setup):
        rows.append(row)
        if processes.is_main:
            write_atomically(rows_file(folder), json.dumps({"device": device, "rows": rows}))


if __name__ == "__main__":
    main()
