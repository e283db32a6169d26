"""Passwords of stores, and secrets in the settings of any program, are in nothing that is stored or printed."""

import base64
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
from omegaconf import DictConfig

from harness.core.errors import ConfigError
from harness.sweep.programs.training import request as sweep_request
from harness.sweep.study.setup import open_study
from tests.conftest import run_main
from tests.sweep.programs.command import sweeps as command_sweeps
from tests.sweep.programs.hydra_app.apps import read_record, sweep_here
from tests.sweep.tiny_sweeps import TINY, read_tiny_request

PASSWORDS = {"mlflow": "mlf@ow:4 pass'w", "token": "tok.en+4'x", "storage": "stor;age 4+p?w"}
ONE_TRIAL = ["lora=none", "hydra.sweeper.params=null", "pruner=none", "sweep.n_trials=1", "sweep.n_jobs=1",
             "preflight=skip", "optimizer.lr=tag(log,interval(1e-4,1e-1))"]  # fmt: skip


class RefusingServer:
    """An HTTP server that notes how it is asked and refuses everything."""

    def __init__(self) -> None:
        self.credentials: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.credentials.append(self.headers.get("Authorization", ""))
                self.send_response(403)
                self.end_headers()
                self.wfile.write(f"refused {self.path}".encode())  # quotes the token, as real servers do

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        encoded = quote(PASSWORDS["mlflow"], safe="'@")  # as much as an HTTP client takes
        self.uri = f"http://me:{encoded}@127.0.0.1:{self._server.server_port}/?token={PASSWORDS['token']}"
        self.expected = "Basic " + base64.b64encode(f"me:{PASSWORDS['mlflow']}".encode()).decode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[RefusingServer]:
    running = RefusingServer()
    yield running
    running.close()


def check_hidden(folder: Path, printed: str) -> None:
    """Check that no file, no file name and no line shows a part of a password."""
    secrets = [form for word in PASSWORDS.values() for form in (word, quote(word), quote(word, safe="'@"), word[:6])]
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert any(name.endswith("metrics.jsonl") for name in files)
    for secret in secrets:
        assert secret not in printed
        assert [name for name, data in files.items() if secret.encode() in data or secret in name] == []


@pytest.fixture
def common(tmp_path: Path, cache_dir: Path, server: RefusingServer) -> list[str]:
    """Return overrides of a run and of a sweep."""
    places = [f"output_dir={tmp_path}/outputs", f"cache_dir={cache_dir}", f'tracking.uri="{server.uri}"']
    return [*(override for override in TINY if override not in ONE_TRIAL), "lora=none", *places]


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """Return the override of a storage that SQLite opens although it has no use for the password."""
    return f'sweep.storage="sqlite:///file:{tmp_path}/study.db?uri=true&password={PASSWORDS["storage"]}"'


def test_run_and_study_hold_no_password(tmp_path, common, storage, monkeypatch, capfd) -> None:
    assert run_main(monkeypatch, *common, "observers=trial") == 0
    request = read_tiny_request(*common, *ONE_TRIAL, storage)
    open_study(request)
    assert PASSWORDS["storage"] in str(request.options.storage)  # for the workers
    check_hidden(tmp_path, "".join(capfd.readouterr()))


def test_sweep_with_a_password_that_trials_need_is_rejected(common) -> None:
    with pytest.raises(ConfigError, match=r"data.source.path: the address has a password, .* \$\{oc.env:NAME\}"):
        read_tiny_request(*common, *ONE_TRIAL, "+data.source.path=http://me:secret@host/x")


def test_launcher_that_writes_addresses_is_rejected(common, monkeypatch) -> None:
    monkeypatch.setattr(sweep_request, "check_database_driver", lambda *_: None)  # it comes with an extra
    overrides = [*common, *ONE_TRIAL, "hydra/launcher=submitit_slurm", "sweep.n_jobs=1"]
    with pytest.raises(ConfigError, match=r"sweep.storage: postgresql\+psycopg://host/x: .* PGPASSWORD"):
        read_tiny_request(*overrides, "sweep.storage=postgresql+psycopg://me:secret@host/x")


@pytest.mark.slow
@pytest.mark.parametrize("sweeper", ["", "harness", "basic"])
def test_uploads_workers_and_hydra_show_no_password(
    sweeper: str, tmp_path, common, storage, server, monkeypatch, capfd
) -> None:
    """A run, a sweep whose trial runs in a worker, and one of Hydra's own sweeper, all uploaded by other processes."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # restored afterwards
    options = {
        "": [],
        "harness": ["-m", *ONE_TRIAL, storage],
        "basic": ["-m", "hydra/sweeper=basic", "sweeps=none", "optimizer.lr=1e-3,1e-2"],
    }
    assert run_main(monkeypatch, *options[sweeper], *common) == 0
    check_hidden(tmp_path, "".join(capfd.readouterr()))
    assert server.credentials
    assert set(server.credentials) == {server.expected}


SECRETS = ("secretpw", "sk-12345678", "hf_12345678")


def test_sweep_of_a_command_stores_no_secret(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("print('val_loss: 1')")
    options = "--env WANDB_API_KEY=sk-12345678 --read 'mlflow:postgresql://u:secretpw@h/db'"
    words = "-- {} train.py --db postgresql://u:secretpw@h/x --hf_token hf_12345678 api_key=sk-12345678 --lr 0.1,0.2"
    line = words.format(sys.executable)
    request = command_sweeps.read_request(f"{options} {line}")
    assert "WANDB_API_KEY=***" in request.command
    shown = [
        request.command,
        str(request.description),
        json.dumps(asdict(request.spec)),
        request.command_line.format_command({"lr": 0.1}),
    ]
    assert command_sweeps.run_trial(f"--env WANDB_API_KEY=sk-12345678 {line}", {"lr": 0.1}).status == "completed"
    shown += [json.dumps(command_sweeps.read_record("train")), *capfd.readouterr()]
    assert [secret for secret in SECRETS if secret in "".join(shown)] == []


def test_sweep_of_an_app_stores_no_secret(tmp_path, capsys) -> None:
    def task(cfg: DictConfig) -> float:
        return float(cfg.x)

    given = ["x=1,2", "db.password=sk-12345678", "+url=postgresql://u:secretpw@h/x", "hydra.sweeper.n_trials=1"]
    sweep_here(tmp_path, task, "x: 3\ndb: {password: secretpw, user: me}\nhf_token: hf_12345678\n", *given)
    own = [path for path in tmp_path.glob("sweep/**/*") if path.is_file() and path.parent.name != ".hydra"]
    kept = "".join(path.read_text() for path in own if path.suffix != ".lock" and path.name != "multirun.yaml")
    assert [secret for secret in SECRETS if secret in kept + "".join(capsys.readouterr())] == []
    start, end = read_record(tmp_path / "sweep/0")[0], read_record(tmp_path / "sweep/0")[-1]
    assert "db.password=***" in start["overrides"]
    assert [name for name in end["artifacts"] if not name.endswith(".log")] == []  # Hydra writes all settings there
