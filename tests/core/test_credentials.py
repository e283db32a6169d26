"""No part of a password is left of an address, wherever it stands in a text."""

import sys
import time

import pytest

from harness.core.credentials import (
    describe_malformed,
    hide_credentials,
    hide_credentials_in_text,
    hide_credentials_in_tracebacks,
    hide_secret_words,
    list_secrets,
)


@pytest.mark.parametrize(
    ("address", "hidden"),
    [
        ("postgresql://me:secret@db:5432/runs", "postgresql://db:5432/runs"),
        ("http://me:a/b@c:d#e?f@host:1/x", "http://host:1/x"),
        ("mysql://me@server:pass word@server/db", "mysql://server/db"),
        ("https://a-long-access-token@host/x", "https://host/x"),
        ("https://:token@host", "https://host"),
        ("http://me:p@host/x y", "http://host/x y"),
        ("http://my name:p@host", "http://host"),
        ("postgresql://me:5432/word@db/x", "postgresql://db/x"),  # SQLAlchemy takes "/" in a password
        ("https://me@hub:8443/org/model@v2", "https://hub:8443/org/model@v2"),
        ("http://host/?token=a#b'c", "http://host/?token=***"),
        ("postgresql://db/x?sslpassword=p w&sslmode=require", "postgresql://db/x?sslpassword=***&sslmode=require"),
        ("postgresql://db/x?sslmode=require&PASSWORD=p?a;b", "postgresql://db/x?sslmode=require&PASSWORD=***"),
        ("postgresql://db/x?user=me&password=1&api_key=2", "postgresql://db/x?user=me&password=***&api_key=***"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dp", "mssql+pyodbc:///?odbc_connect=***"),
        ("http://host/#access_token=t", "http://host/#access_token=***"),
        ("http://host/?pass%77ord=p&apiKey=k&X-Amz-Signature=s", "http://host/?pass%77ord=***&apiKey=***&X-Amz-Signature=***"),
        ("tracking.uri='http://me:p@host?token=t'", "tracking.uri='http://host?token=***'"),
        ("sweep.storage=[\"http://host?a=b&token=t\"]", "sweep.storage=[\"http://host?a=b&token=***\"]"),
        ("http://one:p@host http://two:q@host", "http://host"),  # a password may contain all of this
    ],
)  # fmt: skip
def test_users_passwords_and_tokens_are_removed(address: str, hidden: str) -> None:
    assert hide_credentials(address) == hidden
    assert hide_credentials(hidden) == hidden


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:////data/a@b.db",
        "http://host:5000/#/experiments/1",
        "git+https://host/name/x@v1",
        "postgresql://db/x?sslkey=/key.pem&passfile=/home/me/.pgpass",
        "http://me:${oc.env:PASSWORD}@host",
        "password=x",
        "https://hub:8443/org/model@v2",
        "git+https://hub:8443/org/model@v2",
        "http://host:5000?mail=me@example.org",
        "https://x.org/f.txt?tokenizer=gpt2&max_tokens=3&sslkey=k&token_type=t&monkey=m",
    ],
)
def test_other_addresses_are_kept(address: str) -> None:
    assert hide_credentials(address) == address


def test_text_of_a_driver_that_quotes_a_part_of_its_address() -> None:
    address = "http://me:pass/word@host/?token=a%2Fb"
    text = f"cannot parse 'me:pass' in {address}, asked for /?token=a/b of http://you:other@elsewhere"
    hidden = hide_credentials_in_text(text, address)
    shown = "cannot parse 'me:***' in http://***@host/?token=*** asked for /?token=*** of http://***@elsewhere"
    assert hidden == shown


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("postgresql://user:pa ss@h/db fails", "postgresql://***@h/db fails"),
        ("postgresql://user:pa'ss@h/db fails\nask me@h", "postgresql://***@h/db fails\nask me@h"),
        ("at http://h/?token=abc: failed, see http://x/?key=k.", "at http://h/?token=*** failed, see http://x/?key=***"),
        ("https://x.org:8443/a@v2, http://host, me@x.org", "https://x.org:8443/a@v2, http://host, me@x.org"),
        ("see https://x.org or mail me@x.org", "see https://x.org or mail me@x.org"),
    ],
)  # fmt: skip
def test_addresses_in_a_text(text: str, hidden: str) -> None:
    assert hide_credentials_in_text(text) == hidden
    assert hide_credentials_in_text(hidden) == hidden


@pytest.mark.parametrize(
    ("words", "hidden"),
    [
        (["--db", "postgresql://u:secretpw@h/x", "--lr", "8"], ["--db", "postgresql://h/x", "--lr", "8"]),
        (["--api-key", "sk-12345678", "--api_key=sk-12345678"], ["--api-key", "***", "--api_key=***"]),
        (["--env", "HF_TOKEN=hf_12345", "--env=HF_TOKEN=hf_12345"], ["--env", "HF_TOKEN=***", "--env=HF_TOKEN=***"]),
        (["+a.password=two words", "+db={password: hunter22, a: b}"], ["+a.password=***", "+db={password: ***, a: b}"]),
        (["sh", "-c", "cd x && HF_TOKEN=hf_12345 python t.py --api-key sk-12345678 --lr 1"],
         ["sh", "-c", "cd x && HF_TOKEN=*** python t.py --api-key *** --lr 1"]),
        (['{"api_key": "sk-1234 5678", "lr": 1}', "--token"], ['{"api_key": ***, "lr": 1}', "--token"]),
    ],
)  # fmt: skip
def test_secret_settings_among_words(words: list[str], hidden: list[str]) -> None:
    assert hide_secret_words(words) == hidden
    assert hide_secret_words(hidden) == hidden


def test_other_words_are_kept() -> None:
    words = ["--use-token", "--fp16", "eos_token=</s>", "tokenizer=gpt2-large-uncased", "max_tokens=10000000"]
    words += ["password=${oc.env:PASSWORD}", "--token", "$HF_TOKEN", "make key out of letters", "monkey=12345678a"]
    assert hide_secret_words(words) == words


HOSTILE = {
    "parameters in JSON": '{"url":"http://a/#x",' + '"key":1,' * 1000,
    "addresses with a port": "http://a:80/," * 1000,
    "addresses without a password": "http://a:x " * 1000,
    "schemes": "a://" * 1000,
    "one long word": "http://a?" + "token" * 1000,
    "parameters": "http://a?" + "key=;?#&" * 1000,
    "users": "a://b:" * 1000 + "@",
    "settings": " token: 12345678,token=" * 1000,
    "options": "--token  " * 1000,
    "spaces": "key" + " " * 10_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_take_time_in_proportion_to_their_length(text: str) -> None:
    def measure_seconds(length: int) -> float:
        whole = (text * (length // len(text) + 1))[:length]
        start = time.process_time()
        hide_credentials(whole)
        hide_credentials_in_text(whole)
        hide_secret_words([whole])
        return time.process_time() - start

    assert measure_seconds(1_000_000) < 8 * max(0.02, measure_seconds(250_000))


def test_user_without_password_is_no_secret() -> None:
    assert list(list_secrets("postgresql://me@host/db")) == []
    assert "role me is missing" in hide_credentials_in_text("role me is missing", "postgresql://me@host/db")


@pytest.mark.parametrize("address", ["postgresql:/me:secret@host/db", "me:secret@host", "host?password=secret"])
def test_malformed_address_is_described_without_its_password(address: str) -> None:
    assert "secret" not in describe_malformed(address)
    assert "host" in describe_malformed(address)


def test_traceback_that_ends_a_process_shows_no_password(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # restored afterwards
    hide_credentials_in_tracebacks("http://me:pass/word@host")
    error = RuntimeError("cannot parse 'word' of http://me:pass/word@host")
    sys.excepthook(RuntimeError, error, None)
    assert capsys.readouterr().err == "RuntimeError: cannot parse '***' of http://***@host\n"
