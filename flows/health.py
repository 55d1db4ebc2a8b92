"""Whether a Prefect server answers at an address, as Prefect's own client would find it; if not, what to do about it.

`flows/server.py` asks before anything imports Prefect, `flows/doctor.py` instead of importing it. It reads only, keeps
nothing, and follows no redirect, because a redirect would take the password along. What a client is told (password,
key, headers, certificates) comes from `flows/configuration.py`; proxies are found as Prefect's client finds them, by
httpx.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flows.configuration import ClientSettings
from tidegate.redact import redact_url

if TYPE_CHECKING:
    import httpx

NOTHING = ClientSettings()
"""For a server of which nothing has been told: no password goes to a stranger."""
PROBE_SECONDS = 2.0
LARGEST_ANSWER_BYTES = 4_000_000
NEAR = ("127.0.0.1", "localhost", "::1")
"""Hosts that no proxy can reach for us."""
BUSY = (429, 502, 503, 504)
"""Answers that may be others in a moment: Prefect's client asks again too."""


@dataclass(frozen=True)
class Health:
    """What a look at a server has found."""

    version: str = ""
    """The version that it says it runs; empty where it does not tell, as Prefect Cloud."""
    trouble: str = ""
    """What is wrong, as the rest of a sentence that begins with the server; empty when a client can use it."""
    cure: str = ""
    passing: bool = False
    """Whether another look may find it well."""

    @property
    def well(self) -> bool:
        return not self.trouble


@dataclass(frozen=True)
class Reply:
    """An answer of any program that speaks HTTP."""

    status: int
    location: str
    content: bytes

    @property
    def value(self) -> Any:
        """Its JSON, or None."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None

    @property
    def is_a_page(self) -> bool:
        return self.content.lstrip()[:1] == b"<"


def client(api_url: str, settings: ClientSettings = NOTHING, seconds: float = PROBE_SECONDS) -> httpx.Client:
    """Asks that server as Prefect's client would. Close it after use.

    Raises:
        OSError: the file with the certificates cannot be read, or holds none.
        ValueError: a header cannot be sent.
    """
    import httpx

    near = urlsplit(api_url).hostname in NEAR
    return httpx.Client(
        base_url=f"{api_url.rstrip('/')}/",
        headers=_request_headers(settings),
        verify=_certificates(settings) if api_url.startswith("https:") else False,
        timeout=seconds,
        trust_env=not near,
    )


def ask(api: httpx.Client, path: str) -> Reply:
    """Get a path; of a long answer only the beginning is read."""
    content = b""
    with api.stream("GET", path, headers={"Accept-Encoding": "identity"}) as answer:
        for some in answer.iter_bytes():
            content += some
            if len(content) >= LARGEST_ANSWER_BYTES:
                break
        return Reply(answer.status_code, answer.headers.get("location", ""), content[:LARGEST_ANSWER_BYTES])


def answer(api_url: str, path: str, seconds: float = PROBE_SECONDS, settings: ClientSettings = NOTHING) -> Any:
    """The JSON that the API answers, or None."""
    import httpx

    try:
        with client(api_url, settings, seconds) as api:
            reply = ask(api, path)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        return None
    return reply.value if reply.status == httpx.codes.OK else None


def listens(api_url: str) -> bool:
    """Whether any program has the port. Asking that takes no import, and where nobody listens it is answer enough."""
    place = urlsplit(api_url)
    try:
        with socket.create_connection((place.hostname or "", place.port or 80), PROBE_SECONDS):
            return True
    except OSError:
        return False


def look_at(api_url: str, settings: ClientSettings = NOTHING, seconds: float = PROBE_SECONDS) -> Health:
    """Whether a client with these settings can use the server there, within so many seconds for each answer."""
    import httpx

    try:
        with client(api_url, settings, seconds) as api:
            reply = ask(api, "admin/version")
            if reply.status == httpx.codes.NOT_FOUND and ask(api, "health").value is True:
                return Health()  # Prefect Cloud does not tell its version
            found = judge(reply, settings, version("prefect"))
            return found if found.well or found.cure else _judge_other_path(api, api_url, found)
    except httpx.TimeoutException:
        return Health(trouble=f"does not answer within {seconds:.0f} s", cure=_START_IT, passing=True)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return _unreachable(error, api_url, settings)


def judge(reply: Reply, settings: ClientSettings, ours: str) -> Health:
    """What an answer to the question for the version says about the server. Pure.

    Trouble without a cure means: something answers there that is not Prefect's API.
    """
    status = reply.status
    if status in (401, 403, 407):
        return _judge_refusal(reply, settings)
    if 300 <= status < 400:
        return _judge_redirect(reply)
    if status in BUSY or status >= 500:
        return Health(trouble=f"answers HTTP {status}", cure="look at its log", passing=status in BUSY)
    theirs = reply.value
    if status != 200 or not isinstance(theirs, str) or not re.match(r"\d+\.\d+", theirs):
        what = "a web page" if reply.is_a_page else f"HTTP {status}"
        return Health(trouble=f"does not answer as Prefect's API does, but with {what}")
    if theirs.split(".")[0] != ours.split(".")[0]:
        return Health(theirs, f"runs Prefect {theirs}, and this is {ours}", "use one major version everywhere")
    return Health(theirs)


_START_IT = "start it, or take its address out to use a server of one's own"
_BY_HEADERS = "set PREFECT_CLIENT_CUSTOM_HEADERS to what it wants to see, as JSON"


def _judge_refusal(reply: Reply, settings: ClientSettings) -> Health:
    """It wants to know who asks. Prefect itself answers in JSON; what stands before it, in pages or plain text."""
    if reply.status == 407:
        return Health(
            trouble="cannot be reached: the proxy wants a password", cure="put it into HTTPS_PROXY or HTTP_PROXY"
        )
    if not isinstance(reply.value, dict) and not (settings.auth_string or settings.key):
        who = f"is behind a login that refuses this request (HTTP {reply.status})"
        return Health(
            trouble=who,
            cure=f"{_BY_HEADERS}; a server's own login goes into PREFECT_API_AUTH_STRING or PREFECT_API_KEY",
        )
    if settings.auth_string:
        return Health(
            trouble=f"refuses the password in PREFECT_API_AUTH_STRING (HTTP {reply.status})",
            cure="correct PREFECT_API_AUTH_STRING, or take it out where PREFECT_API_KEY is meant",
        )
    if settings.key:
        return Health(
            trouble=f"refuses the key in PREFECT_API_KEY (HTTP {reply.status})",
            cure="make a new key and set PREFECT_API_KEY; a server of one's own takes PREFECT_API_AUTH_STRING instead",
        )
    return Health(
        trouble=f"wants a password (HTTP {reply.status})",
        cure="set PREFECT_API_AUTH_STRING to user:password, or PREFECT_API_KEY on Prefect Cloud",
    )


def _judge_redirect(reply: Reply) -> Health:
    """Prefect's client follows, and what it wanted to write becomes a question on the way."""
    there = redact_url(reply.location)
    if urlsplit(reply.location).path.endswith("/admin/version"):
        moved = there.partition("/admin/version")[0]
        return Health(trouble=f"has moved to {moved}", cure=f"set PREFECT_API_URL to {moved}")
    return Health(trouble=f"is behind a login: it leads to {there}", cure=_BY_HEADERS)


def _judge_other_path(api: httpx.Client, api_url: str, found: Health) -> Health:
    """Something answers, but not as the API does: is it one step further down?"""
    theirs = ask(api, "api/admin/version").value
    if isinstance(theirs, str) and re.match(r"\d+\.\d+", theirs):
        return Health(trouble=found.trouble, cure=f"set PREFECT_API_URL to {redact_url(api_url.rstrip('/'))}/api")
    return Health(
        trouble=found.trouble,
        cure=f"correct the address, which mostly ends in /api; where a login stands before it, {_BY_HEADERS}",
    )


def _unreachable(error: Exception, api_url: str, settings: ClientSettings) -> Health:
    """No answer: which of the many reasons."""
    import httpx

    reasons = list(_reasons(error))
    refused = next((one for one in reasons if isinstance(one, ssl.SSLCertVerificationError)), None)
    if refused is not None:
        return Health(
            trouble=f"shows a certificate that is not trusted ({refused.verify_message})",
            cure="set PREFECT_API_SSL_CERT_FILE to the file with the certificate of its authority",
        )
    if any(isinstance(one, ssl.SSLError) and one.reason == "WRONG_VERSION_NUMBER" for one in reasons):
        return Health(trouble="speaks no TLS", cure="let the address begin with http:// instead of https://")
    if settings.ca_file and not isinstance(error, httpx.HTTPError) and api_url.startswith("https:"):
        return Health(
            trouble=f"cannot be verified: {settings.ca_file} is no file with certificates ({_words(error)})",
            cure="correct PREFECT_API_SSL_CERT_FILE",
        )
    if isinstance(error, UnicodeError):
        return Health(
            trouble="cannot be asked: a password or header holds a character that HTTP cannot send", cure=_BY_HEADERS
        )
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL | ValueError):
        return Health(trouble="is no address", cure="it looks like http://host:4200/api")
    if isinstance(error, httpx.ProxyError):
        return Health(
            trouble=f"cannot be reached: the proxy refuses ({_words(error)})", cure="add its host to NO_PROXY"
        )
    if isinstance(error, httpx.RemoteProtocolError):
        return Health(
            trouble=f"does not answer in HTTP ({_words(error)})",
            cure="let the address begin with https:// if it speaks TLS",
        )
    proxy = _proxy_to(api_url)
    through = f" through the proxy {redact_url(proxy)}" if proxy else ""
    return Health(
        trouble=f"does not answer{through}: {_words(reasons[-1])}",
        cure=f"{_START_IT}; what needs no proxy goes into NO_PROXY" if proxy else _START_IT,
    )


def _proxy_to(api_url: str) -> str | None:
    import urllib.request

    place = urlsplit(api_url)
    if place.hostname in NEAR or urllib.request.proxy_bypass(place.hostname or ""):
        return None
    known = urllib.request.getproxies()
    return known.get(place.scheme) or known.get("all")


def _reasons(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _words(error: BaseException) -> str:
    strerror = getattr(error, "strerror", None)
    return str(strerror or error).strip() or type(error).__name__


def _request_headers(settings: ClientSettings) -> dict[str, str]:
    """In the order in which Prefect's client lets one overrule the other."""
    headers = {}
    if settings.auth_string:
        headers["authorization"] = "Basic " + base64.b64encode(settings.auth_string.encode()).decode()
    elif settings.key:
        headers["authorization"] = f"Bearer {settings.key}"
    return headers | {name.lower(): value for name, value in settings.headers.items()}


def _certificates(settings: ClientSettings) -> ssl.SSLContext:
    if settings.skip_verify:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    import certifi

    return ssl.create_default_context(cafile=settings.ca_file or certifi.where())
