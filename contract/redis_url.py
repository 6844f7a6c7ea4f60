"""The URL of broker and result store, checked and completed; opens no connection.

For `rediss://` without `ssl_cert_reqs`, Celery's client verifies no certificate and ours does. A completed
URL always has it, so that both verify.
"""

from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

TLS_PARAMETERS: Final = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""Parameters that both clients read in the same way."""
CERT_REQS: Final = ("required", "optional", "none")


def complete_url(url: str, password_file: Path | None = None) -> str:
    """`url` with certificates verified, and with the password in the first line of `password_file` if given.

    Raises ValueError. Its message quotes no part of the URL, which may contain a password.
    """
    # urlsplit quotes parts of the URL in its errors.
    try:
        parts = urlsplit(url)
        host, user, password, _ = parts.hostname, parts.username, parts.password, parts.port
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ValueError("it is no URL; percent-encode characters such as / # @ in the password") from None
    if parts.scheme not in ("redis", "rediss") or not host or parts.fragment:
        raise ValueError("it is not redis://[user:password@]host[:port][/database], or the same with rediss")
    if parts.path.strip("/") and not parts.path.strip("/").isdecimal():
        raise ValueError("its database is not a number")
    _check_parameters(parts.scheme, query)
    if parts.scheme == "rediss":
        query = {"ssl_cert_reqs": "required"} | query
    place = parts.netloc
    if password_file is not None:
        if password is not None:
            raise ValueError("it holds a password, and a password file is set too")
        secret = quote(_first_line(password_file), safe="")
        place = f"{quote(user or '', safe='%')}:{secret}@{place.rpartition('@')[2]}"
    return urlunsplit((parts.scheme, place, parts.path, urlencode(query, safe="/"), ""))


def without_password(url: str) -> tuple[str, bool]:
    """A URL from complete_url() in short form and without its password, and whether it had one."""
    parts = urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    query = dict(parse_qsl(parts.query))
    if query.get("ssl_cert_reqs") == "required":
        del query["ssl_cert_reqs"]
    netloc = f"{name}@{place}" if name else place
    shown = urlunsplit((parts.scheme, netloc, parts.path, urlencode(query, safe="/"), ""))
    return shown, bool(password)


def _check_parameters(scheme: str, query: dict[str, str]) -> None:
    unknown = query.keys() - set(TLS_PARAMETERS)
    if unknown:
        raise ValueError(f"it has parameters other than {', '.join(TLS_PARAMETERS)}")
    if query and scheme != "rediss":
        raise ValueError("its parameters are for TLS, which needs rediss://")
    if query.get("ssl_cert_reqs", "required") not in CERT_REQS:
        raise ValueError(f"its ssl_cert_reqs is not one of {', '.join(CERT_REQS)}")


def _first_line(file: Path) -> str:
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the password file {file} cannot be read: {type(error).__name__}") from None
    if not lines or not lines[0]:
        raise ValueError(f"the password file {file} is empty")
    return lines[0]
