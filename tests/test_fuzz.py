"""Whatever a user types or a damaged folder holds: exit status 0, 1 or 2, and a message instead of a traceback.

Invalid input (status 2) gets a short message that names a key or a file, and leaves nothing behind. A failing line is
reproduced by `python -m tests.fuzzing SEED INDEX`, which prints its output.
"""

import shlex
from collections.abc import Iterable

import pytest

from tests.fuzzing.sandbox import DAMAGES, LINE_KINDS, VALUES, list_lines, open_sandbox

SEED = 36
N_LINES, N_SLOW_LINES = 80, 2000


@pytest.mark.parametrize(
    ("n_lines", "is_cheap"), [(N_LINES, True), pytest.param(N_SLOW_LINES, False, marks=pytest.mark.slow)]
)
def test_fuzzed_lines_never_end_in_a_traceback(n_lines, is_cheap, tmp_path) -> None:
    failures = []
    with open_sandbox(tmp_path) as sandbox:
        for index, line in list_lines(SEED, n_lines, cheap=is_cheap):
            outcome = sandbox.try_line(line, f"{SEED}:{index}")
            if outcome.problems:
                command = f"{_describe(line.damage)}plateau {shlex.join(line.command)}"
                report = (
                    f"python -m tests.fuzzing {SEED} {index}: {command}",
                    outcome.problems,
                    outcome.output[-1000:],
                )
                failures.append("\n".join(map(str, report)))
    assert not failures, f"{len(failures)} of {n_lines} lines:\n" + "\n\n".join(failures[:10])


def _describe(damage: Iterable[str] | None) -> str:
    return f"{' '.join(damage)}; " if damage else ""


def test_lines_cover_every_kind() -> None:
    lines = [line for _, line in list_lines(SEED, N_LINES, cheap=True)]
    assert {line.generator for line in lines} == {"keys", "lines", "folders"}
    assert {line.kind for line in lines} >= {*VALUES, *LINE_KINDS, *DAMAGES}
    assert lines == [line for _, line in list_lines(SEED, N_LINES, cheap=True)]
