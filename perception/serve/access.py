"""Who may look: an address, a token wherever that is not this machine alone, and a check of the Host header.

A page on the internet can make a browser send requests to 127.0.0.1, and by DNS rebinding even read the answers; it can
not choose the Host header, which then names its own domain. So only numbers and the names of this machine are served.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Address", "Gate"]

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8600
COOKIE = "perception_token"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where the page is served, and the token that is asked for; "" = none, on this machine alone."""

    host: str
    port: int
    token: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> Address:
        """ "HOST:PORT", "HOST", ":PORT", "[IPV6]:PORT" or "" (127.0.0.1:8600). Raises ValueError if it is neither."""
        host, port = text, ""
        if text.startswith("["):
            host, _, port = text[1:].partition("]")
            port = port.removeprefix(":")
        elif text.count(":") == 1:
            host, _, port = text.partition(":")
        host, port = host or DEFAULT_HOST, port or str(DEFAULT_PORT)
        bad = not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and not _as_ip(host))
        if bad or any(letter.isspace() or letter in "/@" for letter in host):
            raise ValueError(
                f"--serve: expected HOST:PORT such as {DEFAULT_HOST}:{DEFAULT_PORT}, but got {text}; "
                "a SOURCE goes before the options"
            )
        return cls(host, int(port), "" if _is_local(host) else secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        """What to open in a browser, with the token."""
        anywhere = self.host in ("0.0.0.0", "::")
        host = socket.gethostname() if anywhere else f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")


class Gate:
    """ASGI middleware: 400 for a Host that is not this machine, 403 without the token, and strict headers on the rest.

    `/?token=...` is answered with a cookie and a redirect, so that the token stays out of the address bar.
    """

    def __init__(self, app: ASGIApp, address: Address) -> None:
        self._app, self._token = app, address.token
        self._names = {"localhost", address.host.lower(), socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = HTTPConnection(scope)
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            await PlainTextResponse("unknown host", 400, HEADERS)(scope, receive, send)
            return
        if self._token:
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if scope["path"] == "/" and self._is_right(given):
                answer = RedirectResponse("/", 303, HEADERS)
                answer.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
                await answer(scope, receive, send)
                return
            if not self._is_right(request.cookies.get(COOKIE, "")):
                text = "The token is missing or wrong: open the address that perception.live printed.\n"
                await PlainTextResponse(text, 403, HEADERS)(scope, receive, send)
                return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        await self._app(scope, receive, guarded)

    def _is_ours(self, host: str) -> bool:
        name = host[1 : host.find("]")] if host.startswith("[") else host.rsplit(":", 1)[0]
        return name.lower() in self._names or _as_ip(name) is not None

    def _is_right(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())


def _is_local(host: str) -> bool:
    ip = _as_ip(host)
    return ip.is_loopback if ip else host.lower() == "localhost"


def _as_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
