"""The user's proxies, certificates and addresses: whether a connection can be prepared with them,
which of their variables a connection that failed is about, and what of an address may be printed.
"""

import base64
import os
import re
from urllib.parse import unquote, urlsplit
from urllib.request import Request, getproxies_environment, proxy_bypass

from bezoar.errors import UserError, reason
from bezoar.surroundings import exempt_this_machine

KINDS = ("http", "https", "all")  # of proxies, as their variables begin
ENCODE = "in a name or password, # / ? @ are written %23 %2F %3F %40"
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def require_network() -> None:
    """Raise `UserError` that names the variable if no client can be made with the proxies and
    certificates that the environment names; no proxy is asked for this machine from here on.
    """
    import httpx2

    exempt_this_machine(os.environ)
    try:
        httpx2.Client().close()
    except Exception as error:  # of many kinds: no SOCKS, an unknown scheme or port, no such file
        proxies = [name for kind in KINDS if (name := _variable(kind)) and not _is_usable(name)]
        wrong = " and ".join(_certificates() if isinstance(error, OSError) else proxies)
        login = any("@" in os.environ[name] for name in proxies)
        why = reason(error)
        if login and isinstance(error, httpx2.InvalidURL):  # it may quote the password
            why = f"a proxy's address cannot be read ({ENCODE})"
        raise UserError(
            f"no connection can be prepared: {why}; correct or unset"
            f" {wrong or 'the proxies and certificates of the environment'}"
        ) from None


def is_address(text: str) -> bool:
    """Whether a text is the address of a server."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return good and text.isprintable() and " " not in text


def shown(text: str) -> str:
    """Return a text without the names and passwords in its addresses."""
    return re.sub(r"(?<=://)\S*@", "", text)


def request(url: str, method: str = "GET") -> Request:
    """Return a request, for which no proxy is asked if it is to this machine. urllib takes a name
    and password in the URL for a part of the host; here they become a header, which goes to no host
    that the server redirects to.
    """
    exempt_this_machine(os.environ)
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    found = Request(parts._replace(netloc=host).geturl(), method=method)
    if login:
        basic = base64.b64encode(unquote(login).encode()).decode()
        found.add_unredirected_header("Authorization", f"Basic {basic}")
    return found


def advice(url: str, problem: str, kinds: tuple[str, ...] = KINDS) -> str:
    """Return what of the user's variables to look at after a connection to `url` that failed with
    `problem`: the certificates if it is about them, else the proxy that stands between (`kinds`
    that the client knows), else an empty text.
    """
    if "CERTIFICATE_VERIFY_FAILED" in problem:
        if named := _certificates():
            return f"check the certificates in {' and '.join(named)}"
        return "set SSL_CERT_FILE to a file with the certificates of your network"
    parts, proxies = urlsplit(url), getproxies_environment()
    if not parts.hostname or proxy_bypass(parts.hostname):
        return ""
    used = next((kind for kind in (parts.scheme, "all") if kind in proxies and kind in kinds), "")
    return f"check the proxy in {_variable(used)}" if used else ""


def _certificates() -> list[str]:
    """The variables of certificates that are set."""
    return [name for name in CERTIFICATES if os.environ.get(name)]


def _variable(kind: str) -> str:
    """The variable that names the proxy of a kind, or an empty text; lower case counts first."""
    name = f"{kind}_proxy"
    return next((name for name in (name, name.upper()) if os.environ.get(name)), "")


def _is_usable(variable: str) -> bool:
    """Whether a client can be made with the proxy that a variable names."""
    import httpx2

    proxy = os.environ[variable]
    try:
        httpx2.Client(proxy=proxy if "://" in proxy else f"http://{proxy}", trust_env=False).close()
    except Exception:  # of many kinds, as above
        return False
    return True
