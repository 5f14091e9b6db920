"""Connections to other hosts: trusted certificates, allowed hosts, files of web servers.

FFmpeg verifies certificates only with an option, does not apply it to the entries of a playlist,
and follows names and redirects to any host. So http and https are read by Python, which resolves a
name once and connects to the address it has checked; for other protocols FFmpeg itself connects,
with the options that make it verify.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
import string
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from io import BytesIO
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Self
from urllib.parse import quote, unquote, urlsplit

from .errors import SourceMissing, UnsupportedMedia
from .redaction import one_line, redacted

_TLS = ("https", "rtsps", "rtmps", "rtmpts", "tls")
_STORES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
"""Files of Debian and Fedora, for a Python built elsewhere."""


@dataclass(frozen=True, slots=True)
class NetworkRules:
    """Rules for every connection of this process."""

    hosts: tuple[str, ...] | None = None
    """Names, addresses and networks allowed besides public addresses; None: every host."""
    tls_insecure: bool = False
    """Whether any certificate is trusted."""


_rules = NetworkRules()


def current_rules() -> NetworkRules:
    """Return the rules that apply at present."""
    return _rules


@contextmanager
def network_rules(rules: NetworkRules) -> Generator[None]:
    """Apply rules in all threads of this process while the block runs."""
    global _rules
    before, _rules = _rules, rules
    try:
        yield
    finally:
        _rules = before


def is_insecure() -> bool:
    """Return whether any certificate is trusted at present."""
    return _rules.tls_insecure


class Untrusted(OSError):
    """A certificate for another host, expired, or from an unknown authority."""

    def __init__(self, error: ssl.SSLCertVerificationError) -> None:
        super().__init__(f"certificate not trusted: {error.verify_message}")


def authorities() -> str:
    """Return the file of trusted authorities: SSL_CERT_FILE, or the system's.

    Raises:
        SourceMissing: if there is none.
    """
    named = os.environ.get("SSL_CERT_FILE")
    places = [named] if named else [ssl.get_default_verify_paths().cafile or "", *_STORES]
    for place in places:
        if Path(place).is_file():
            return place
    got = ", ".join(filter(None, places))
    raise SourceMissing(
        f"no certificate can be verified: wanted a file of trusted authorities, got none at {got}: "
        "install ca-certificates, or set SSL_CERT_FILE"
    )


def tls_context() -> ssl.SSLContext:
    """Return the context that verifies certificates in Python; raises as :func:`authorities`."""
    if not _rules.tls_insecure:
        return ssl.create_default_context(cafile=authorities())
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def tls_options(url: str) -> dict[str, str]:
    """Return the options that make FFmpeg verify certificates; none without TLS.

    Raises:
        SourceMissing: as :func:`authorities`.
        UnsupportedMedia: if FFmpeg passes no options to this protocol's TLS.
    """
    scheme = url.partition(":")[0].lower()
    if scheme not in _TLS:
        return {}
    if _rules.tls_insecure:
        return {"tls_verify": "0"}
    if scheme == "rtmpts":
        raise UnsupportedMedia(UNVERIFIED.format(scheme))
    return {"tls_verify": "1", "ca_file": authorities()}


INSECURE = "no certificate is verified: passwords and pictures go to whoever answers"
UNVERIFIED = "{}: FFmpeg cannot verify its certificate; wanted another protocol, or tls_insecure"


def why_untrusted(url: str, timeout_seconds: float = 5.0) -> str | None:
    """Return what is wrong with a host's certificate; None if that is not the problem."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"rtsps": 322}.get(parts.scheme.lower(), 443)
        if parts.hostname is None or tls_options(url).get("tls_verify") != "1":
            return None
        with _connected(parts.hostname, port, timeout_seconds) as plain:
            tls_context().wrap_socket(plain, server_hostname=parts.hostname).close()
    except ssl.SSLCertVerificationError as error:
        return str(Untrusted(error))
    except (OSError, ValueError, SourceMissing):
        pass
    return None


_NAT64 = IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = IPv6Network("2000::/3")


def check_url(url: str, hosts: Sequence[str] | None = None) -> str:
    """Check the host of a URL by the rules, and return the URL that FFmpeg is to open.

    With protocols other than http a server may redirect FFmpeg, so even a public host must be
    named. Without TLS, which needs the name, it is replaced by the address that was checked. If
    `hosts` is None, those of the current rules count.

    Raises:
        SourceMissing: if the host has no address.
        UnsupportedMedia: if the rules forbid it.
    """
    if (hosts := _rules.hosts if hosts is None else hosts) is None:
        return url
    try:
        parts = urlsplit(url)
        named = parts.scheme not in ("http", "https")
        address = _resolved(parts.hostname or "", hosts, named=named)
    except (OSError, ValueError) as error:
        raise SourceMissing(f"{redacted(url)}: no such host") from error
    if parts.scheme in ("http", "https", *_TLS):
        return url
    login, at, _ = parts.netloc.rpartition("@")
    host = f"[{address}]" if ":" in address else address
    port = "" if parts.port is None else f":{parts.port}"
    return parts._replace(netloc=f"{login}{at}{host}{port}").geturl()


def _resolved(host: str, hosts: Sequence[str], *, named: bool = False) -> str:
    """Return an address of a host; all of its addresses must be public, or named."""
    found = {str(one[4][0]): None for one in socket.getaddrinfo(host, None)}
    for address in found:
        if (named or not _is_public(address)) and not _is_named(host, address, hosts):
            raise UnsupportedMedia(
                f"{host} is {address}, wanted "
                f"{'a host' if named else 'a public address or one'} of [jobs] allowed_hosts"
            )
    return next(iter(found))


def _connected(host: str, port: int, timeout_seconds: float | None) -> socket.socket:
    where = host if _rules.hosts is None else _resolved(host, _rules.hosts)
    return socket.create_connection((where, port), timeout_seconds)


def _plain(address: str) -> IPv4Address | IPv6Address:
    """Return an address, or the IPv4 address embedded in it, which receives the packets."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv4Address):
        return found
    inside = IPv4Address(int(found) & 0xFFFFFFFF) if found in _NAT64 else None
    return inside or found.ipv4_mapped or found.sixtofour or found


def _is_public(address: str) -> bool:
    found = _plain(address)
    if isinstance(found, IPv6Address) and found not in _GLOBAL_UNICAST:
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved)


def _is_named(host: str, address: str, hosts: Sequence[str]) -> bool:
    for name in hosts:
        try:
            if _plain(address) in ip_network(name, strict=False):
                return True
        except ValueError:  # the name of a host
            if name.rstrip(".").casefold() == host.rstrip(".").casefold():
                return True
    return False


class _Connection(http.client.HTTPConnection):
    """Connects to the address that was checked, and to no other."""

    def connect(self) -> None:
        if _rules.hosts is None:
            super().connect()
        else:
            self.sock = _connected(self.host, self.port, self.timeout)


class _TlsConnection(http.client.HTTPSConnection, _Connection):
    """The same, with a certificate for the name."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        """Close the response, whose body urllib would read to its end."""
        fp.close()
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Handler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_TlsConnection, req, context=tls_context())


def open_url(
    url: str, timeout_seconds: float, headers: Mapping[str, str] = MappingProxyType({})
) -> http.client.HTTPResponse:
    """Request a file by http(s), following redirects; a password is sent to its own host only.

    Raises:
        OSError: if it is not available; `urllib.error.HTTPError` has the server's answer.
        SourceMissing: as :func:`authorities`.
        UnsupportedMedia: if one of the hosts is not allowed.
    """
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
    bare = parts._replace(netloc=host, path=path, query=query, fragment="").geturl()
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    user, _, password = login.partition(":")
    passwords.add_password(None, bare, unquote(user), unquote(password))
    opener = urllib.request.OpenerDirector()  # without handlers for file, ftp or data
    for handler in (
        _Handler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Errors(),
        urllib.request.UnknownHandler(),
        _Redirects(),
        *([urllib.request.ProxyHandler()] if _rules.hosts is None else []),
        *(kind(passwords) for kind in _LOGINS if login),
    ):
        opener.add_handler(handler)
    try:
        request = urllib.request.Request(bare, headers=dict(headers))
        return opener.open(request, timeout=timeout_seconds)
    except urllib.error.HTTPError as error:
        error.close()
        raise
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise Untrusted(error.reason) from None
        raise error.reason if isinstance(error.reason, Exception) else error from None
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"the server's answer is invalid: {_plain_text(error)}") from error


def _plain_text(error: Exception) -> str:
    """Describe an error of http.client, whose own text may be a status line or nothing."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
    return one_line(f"{name}: {error}" if str(error) else name)


class _Errors(urllib.request.HTTPErrorProcessor):
    def http_response(
        self, request: urllib.request.Request, response: http.client.HTTPResponse
    ) -> http.client.HTTPResponse:
        """Close the answer that asks for the login: the handler only reads its headers."""
        if response.status == HTTPStatus.UNAUTHORIZED:
            response.close()
        return super().http_response(request, response)  # pyright: ignore[reportReturnType]

    https_response = http_response  # pyright: ignore[reportAssignmentType]


_LOGINS = (urllib.request.HTTPBasicAuthHandler, urllib.request.HTTPDigestAuthHandler)

_MOST_BYTES = 1 << 62  # of a file: offsets are 64 bits wide
_MOST_ENCRYPTED_BYTES = 256 << 20
"""Of a segment: it is held in a memory file, which no limit of a process counts."""


class RemoteFile:
    """A file on a web server for PyAV; seekable if the server supports it.

    `span` is the first byte and the one after the last; 0: the file's end. The timeout is the
    longest wait for each answer.

    Raises:
        Exception: as :func:`open_url`.
    """

    def __init__(self, url: str, timeout_seconds: float, span: tuple[int, int] = (0, 0)) -> None:
        self._url, self._timeout = url, timeout_seconds
        self._at, self._end = span
        self._asked = self._at
        self._response: http.client.HTTPResponse = self._ask()
        length = self._response.length
        if self._at + (length or 0) > _MOST_BYTES:
            raise OSError(f"claims to have {length} bytes")
        self._size = None if length is None else self._at + length
        self._seeks = self._response.status == 206 and length is not None

    def _ask(self) -> http.client.HTTPResponse:
        # a range also for the whole file: a server that answers with a part can seek
        span = f"bytes={self._at}-{self._end - 1 if self._end else ''}"
        headers = {"User-Agent": "upframe", "Accept": "*/*", "Range": span}
        response = open_url(self._url, self._timeout, headers)
        if (self._at or self._end) and response.status != 206:
            raise OSError(f"requested a part of it, got status {response.status}")
        self._asked = self._at
        return response

    def __del__(self) -> None:
        self.close()

    def seekable(self) -> bool:
        """Return whether PyAV may seek."""
        return self._seeks

    def read(self, size: int = -1) -> bytes:
        """Read available bytes, waiting for the first; none at the end.

        Raises:
            OSError: if the connection is lost, or the file is shorter than announced.
        """
        if self._asked != self._at:
            self._response.close()
            self._response = self._ask()
        try:
            data = self._response.read1(size)
        except http.client.HTTPException as error:
            raise OSError(f"the connection is lost: {_plain_text(error)}") from error
        self._at = self._asked = self._at + len(data)
        if self._at == self._size:
            self._response.close()  # PyAV leaves the first file of a container open
        if not data and self._size is not None and self._at < self._size:
            raise OSError(f"ends after {self._at} of {self._size} bytes")
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Seek; the next read requests the file from there."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence, self._size or 0)
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return the offset of the next byte."""
        return self._at

    def close(self) -> None:
        """Release the connection."""
        if hasattr(self, "_response"):
            self._response.close()


class RemoteFiles:
    """Opens all files of a container on a web server: `io_open` of `av.open`."""

    def __init__(self, url: str, timeout_seconds: float | None) -> None:
        self._url, self._timeout = url, timeout_seconds or 30.0
        self._refused = False

    @classmethod
    def of(cls, file: object, timeout_seconds: float | None) -> Self | None:
        """Return one for a URL of http(s), None for anything else."""
        remote = isinstance(file, str) and file.lower().startswith(("http://", "https://"))
        return cls(str(file), timeout_seconds) if remote else None

    def __call__(self, url: str, flags: int, options: dict[str, str]) -> RemoteFile | BytesIO:
        """Open a file for FFmpeg.

        Raises:
            OSError: if the file that was named is not available, or a certificate is not trusted.
            UnsupportedMedia: if it names something that may not be opened.
        """
        if self._refused:  # raised when FFmpeg returns; PyAV keeps only one error
            return BytesIO()
        plain = url.removeprefix("crypto+")
        try:
            if url.startswith("data:"):
                return BytesIO(urllib.request.urlopen(url).read())
            if urlsplit(plain).scheme not in ("http", "https"):
                self._refused, named = True, f"{redacted(self._url)} names {redacted(url)}"
                raise UnsupportedMedia(f"{named}, wanted http(s)")
            span = int(options.get("offset", 0)), int(options.get("end_offset", 0))
            file = RemoteFile(plain, self._timeout, span)
            return file if plain is url else _decrypted(file, options)
        except Untrusted:
            raise
        except (OSError, ValueError):
            if url == self._url:
                raise
            return BytesIO()  # a segment that has expired: FFmpeg continues with the next


def _decrypted(file: RemoteFile, options: Mapping[str, str]) -> BytesIO:
    """Decrypt a segment by FFmpeg's protocol `crypto`, which reads from files only."""
    import av  # heavy, and seldom needed

    with open(os.memfd_create("segment"), "wb", buffering=0) as held:
        while data := file.read(1 << 16):
            if held.tell() > _MOST_ENCRYPTED_BYTES:
                raise UnsupportedMedia(f"an encrypted segment of more than {held.tell()} bytes")
            held.write(data)
        keys = {name: options[name] for name in ("key", "iv")}
        name = f"crypto:file:/proc/self/fd/{held.fileno()}"
        with av.open(name, format="data", options=keys) as container:
            return BytesIO(b"".join(bytes(packet) for packet in container.demux()))
