"""Which of the user's variables a connection that failed is about."""

import os

import pytest

from bezoar import network

UNTRUSTED = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate"
REFUSED = "[Errno 111] Connection refused"
PROXY = {"https_proxy": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("problem", "variables", "expected"),
    [
        (REFUSED, {"SSL_CERT_FILE": "/ca.pem"}, ""),
        (REFUSED, PROXY | {"SSL_CERT_FILE": "/ca.pem"}, "check the proxy in https_proxy"),
        (REFUSED, {"HTTPS_PROXY": "p:1", "ALL_PROXY": "p:1"}, "check the proxy in HTTPS_PROXY"),
        (REFUSED, {"HTTP_PROXY": "p:1", "ALL_PROXY": "p:1"}, "check the proxy in ALL_PROXY"),
        (REFUSED, PROXY | {"NO_PROXY": "example.org"}, ""),
        (UNTRUSTED, PROXY, "set SSL_CERT_FILE to a file with the certificates of your network"),
        (
            UNTRUSTED,
            PROXY | {"SSL_CERT_FILE": "/ca.pem"},
            "check the certificates in SSL_CERT_FILE",
        ),
    ],
)
def test_the_variable_that_a_failed_connection_is_about_is_named_alone(
    problem: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.upper().endswith("_PROXY") or name in network.CERTIFICATES:
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert network.advice("https://example.org/file", problem) == expected


def test_a_proxy_for_everything_is_not_blamed_by_who_does_not_use_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in os.environ if name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert network.advice("https://example.org", REFUSED, ("http", "https")) == ""
