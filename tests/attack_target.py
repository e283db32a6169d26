"""Something to attack: a folder that must survive, and a marker that any attack would leave behind."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

EVIL_MODULE = """
import os, pathlib
pathlib.Path(os.environ["ATTACK_FILE"]).write_text("imported")

def run(*args, **kwargs):
    pathlib.Path(os.environ["ATTACK_FILE"]).write_text("called")

class Component(dict):
    def __init__(self, *args, **kwargs):
        run()
"""


@dataclass(frozen=True)
class AttackTarget:
    """`folder` holds the victim, `evil.py`, which leaves the marker when it is imported, and what a test adds."""

    folder: Path

    @property
    def marker(self) -> Path:
        return self.folder / "marker"

    @property
    def victim(self) -> Path:
        return self.folder / "victim"

    def fill_in(self, text: str) -> str:
        """Return `text` with the paths of the target in place of MARKER, VICTIM and FOLDER."""
        for name, path in (("MARKER", self.marker), ("VICTIM", self.victim), ("FOLDER", self.folder)):
            text = text.replace(name, str(path))
        return text

    def check_untouched(self) -> None:
        assert not self.marker.exists()
        assert (self.victim / "file.txt").read_text() == "precious"
        assert os.listdir(self.victim) == ["file.txt"]
        assert "evil" not in sys.modules


class Bomb:
    """An object that runs a command when it is unpickled."""

    def __init__(self, target: AttackTarget) -> None:
        self.command = f"touch {target.marker}"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def create_attack_target(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AttackTarget:
    """Create a target whose module `evil` can be imported, also by other processes."""
    target = AttackTarget(folder)
    target.victim.mkdir(parents=True)
    (target.victim / "file.txt").write_text("precious")
    (target.folder / "evil.py").write_text(EVIL_MODULE)
    monkeypatch.setenv("ATTACK_FILE", str(target.marker))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(target.folder), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(target.folder)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    return target


def number_attacks(attacks: dict[str, object], whole_every: int = 1) -> list[object]:
    """Return the attacks as parameters whose ids count them, such as "07 of 42 in a list".

    All but each `whole_every`-th, from the first, are marked slow.
    """
    return [
        pytest.param(
            *(attack if isinstance(attack, tuple) else (attack,)),
            id=f"{index + 1:02} of {len(attacks)} {name}",
            marks=pytest.mark.slow if index % whole_every else (),
        )
        for index, (name, attack) in enumerate(attacks.items())
    ]
