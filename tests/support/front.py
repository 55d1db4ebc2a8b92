"""What stands before a Prefect server in a company: TLS with a certificate of its own authority, or a login.

Bytes are passed on as they are, so websockets go through too. A connection's first request says who asks; where a
header is wanted and missing, it is answered as a login does, with a web page.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

REFUSAL = (
    b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=staff\r\nContent-Type: text/html\r\n"
    b"Content-Length: 27\r\nConnection: close\r\n\r\n<html>Please log in.</html>"
)


@dataclass(frozen=True)
class Authority:
    """One that signs certificates and that nobody knows."""

    ca_file: Path
    certificate: Path
    """With its key, for a server on this host."""

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        return context


def found_authority(folder: Path, host: str = "127.0.0.1") -> Authority:
    """A new authority, and a certificate of its for `host`."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An authority of a test")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    near = host.replace(".", "").isdigit()
    alternative = x509.IPAddress(ipaddress.ip_address(host)) if near else x509.DNSName(host)
    ca = _begun(ca_name, ca_name, ca_key.public_key()).add_extension(x509.BasicConstraints(True, None), critical=True)
    own = _begun(name, ca_name, key.public_key()).add_extension(
        x509.SubjectAlternativeName([alternative]), critical=False
    )
    ca_file, certificate = folder / "ca.pem", folder / "server.pem"
    ca_file.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate.write_bytes(private + own.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return Authority(ca_file, certificate)


def _begun(name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )


@contextmanager
def standing_before(api_url: str, *, context: ssl.SSLContext | None = None, wants: str | None = None) -> Iterator[str]:
    """An address on this host through which the API is reached; `wants` is a whole header line."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    target = urlsplit(api_url)
    port = 0

    async def serve() -> None:
        nonlocal port

        async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
                head = await reader.readuntil(b"\r\n\r\n")
                if wants is not None and wants.lower().encode() not in head.lower():
                    writer.write(REFUSAL)
                else:
                    there, back = await asyncio.open_connection(target.hostname, target.port)
                    back.write(head)
                    await asyncio.gather(_pass(reader, back), _pass(there, writer))
            writer.close()

        listening = await asyncio.start_server(join, "127.0.0.1", 0, ssl=context)
        port = listening.sockets[0].getsockname()[1]
        ready.set()
        await listening.serve_forever()

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(serving)

    serving = loop.create_task(serve())
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{port}{target.path}"
    finally:
        loop.call_soon_threadsafe(serving.cancel)
        thread.join(10)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while some := await reader.read(65_536):
            writer.write(some)
            await writer.drain()
    with contextlib.suppress(OSError, NotImplementedError):
        writer.close()
