"""No part of a password is left of an address, wherever it stands in a text."""

import pytest

from harness.core.credentials import describe_malformed, hide_credentials, hide_credentials_in_text, list_secrets


@pytest.mark.parametrize(
    ("address", "hidden"),
    [
        ("postgresql://me:secret@db:5432/runs", "postgresql://db:5432/runs"),
        ("http://me:a/b@c:d#e?f@host:1/x", "http://host:1/x"),
        ("mysql://me@server:pass word@server/db", "mysql://server/db"),
        ("https://a-long-access-token@host/x", "https://host/x"),
        ("https://:token@host", "https://host"),
        ("http://host/?token=a#b'c", "http://host/"),
        ("postgresql://db/x?sslpassword=p w&sslmode=require", "postgresql://db/x?sslmode=require"),
        ("postgresql://db/x?sslmode=require&PASSWORD=p?a;b", "postgresql://db/x?sslmode=require"),
        ("postgresql://db/x?user=me&password=1&api_key=2", "postgresql://db/x?user=me"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dp", "mssql+pyodbc:///"),
        ("http://host/#access_token=t", "http://host/"),
        ("tracking.uri='http://me:p@host?token=t'", "tracking.uri='http://host'"),
        ("sweep.storage=[\"http://host?a=b&token=t\"]", "sweep.storage=[\"http://host?a=b\"]"),
        ("http://one:p@host http://two:q@host", "http://host"),  # a password may contain all of this
    ],
)  # fmt: skip
def test_users_passwords_and_tokens_are_removed(address: str, hidden: str) -> None:
    assert hide_credentials(address) == hidden


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:////data/a@b.db",
        "http://host:5000/#/experiments/1",
        "git+https://host/name/x@v1",
        "postgresql://db/x?sslkey=/key.pem&passfile=/home/me/.pgpass",
        "http://me:${oc.env:PASSWORD}@host",
        "password=x",
    ],
)
def test_other_addresses_are_kept(address: str) -> None:
    assert hide_credentials(address) == address


def test_text_of_a_driver_that_quotes_a_part_of_its_address() -> None:
    address = "http://me:pass/word@host/?token=a%2Fb"
    text = f"cannot parse 'me:pass' in {address}, asked for /?token=a/b of http://you:other@elsewhere"
    hidden = hide_credentials_in_text(text, address)
    assert hidden == "cannot parse 'me:***' in http://host/ asked for /?token=*** of http://elsewhere"


def test_user_without_password_is_no_secret() -> None:
    assert list(list_secrets("postgresql://me@host/db")) == []
    assert "role me is missing" in hide_credentials_in_text("role me is missing", "postgresql://me@host/db")


@pytest.mark.parametrize("address", ["postgresql:/me:secret@host/db", "me:secret@host", "host?password=secret"])
def test_malformed_address_is_described_without_its_password(address: str) -> None:
    assert "secret" not in describe_malformed(address)
    assert "host" in describe_malformed(address)
