"""The identity of a run: a key and a certificate that only its own ends have.

Both ends of a connection present it and accept no other.
"""

from __future__ import annotations

import functools
import hashlib
import os
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module

from encamp.engines.kit.start_agents import host_id
from encamp.errors import EngineUnavailable, extra_text

_NAME = "encamp"
_FROM, _TO = datetime(1970, 1, 2, tzinfo=UTC), datetime(2199, 1, 1, tzinfo=UTC)
"""Validity of the certificate, which only lasts for a run: the clocks of hosts may differ."""


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key, both as PEM."""

    certificate: str
    key: str = field(repr=False)

    def context(self, *, server: bool) -> ssl.SSLContext:
        """A TLS 1.3 context that presents this identity, and accepts no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self.certificate)
        with _file(self.certificate + self.key) as path:
            context.load_cert_chain(path)
        context.set_alpn_protocols([_of_this_host(), _NAME])
        if server:
            context.num_tickets = 0  # no connection is resumed
        return context

    def shown_by(self, peer: ssl.SSLObject) -> bool:
        """Whether the other end has this certificate, not just one that was signed with its key."""
        return peer.getpeercert(True) == ssl.PEM_cert_to_DER_cert(self.certificate)


def on_one_host(peer: ssl.SSLObject) -> bool:
    """Whether both ends of a connection are on one host, according to their handshake."""
    return peer.selected_alpn_protocol() == _of_this_host()


@functools.cache
def _of_this_host() -> str:
    """A name that only ends on this host offer in the handshake."""
    return f"{_NAME} {hashlib.blake2b(host_id().encode(), digest_size=16).hexdigest()}"


@contextmanager
def _file(text: str) -> Iterator[str]:
    """An unnamed file of this process, since OpenSSL reads keys only from files."""
    try:
        fd = os.memfd_create("encamp-identity")
    except (OSError, AttributeError):  # a container may refuse memfd_create
        with tempfile.TemporaryFile() as unnamed:
            fd = os.dup(unnamed.fileno())
    try:
        os.write(fd, text.encode())
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def load_early() -> None:
    """Load what `new_identity` needs in a separate thread, while the caller waits for others."""

    def load() -> None:
        with suppress(ImportError):  # `new_identity` reports it
            import_module("cryptography.x509")

    threading.Thread(target=load, name="encamp-identity", daemon=True).start()


def new_identity(engine: str) -> Identity:
    """The identity of a run of ``engine``. Raises `EngineUnavailable`."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as exc:
        remedy = f"{extra_text(engine)}, or cryptography alone"
        raise EngineUnavailable(engine, str(exc), remedy) from exc
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_TO)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Identity(certificate.public_bytes(pem).decode(), private.decode())
