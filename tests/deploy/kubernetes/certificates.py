"""The certificates and keys of a control plane: an authority, a server of this machine, clients. In PEM files.

Knows nothing of Kubernetes but that a client's organizations are its groups.
"""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_FOR = datetime.timedelta(days=1)
"""Longer than any test."""


class Pair(NamedTuple):
    certificate: Path
    key: Path


class Authority:
    """Signs certificates, which it writes into a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("tests", ())
        builder = _builder(self._name, self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = directory / "authority.crt"
        self.certificate.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))

    def server(self, name: str) -> Pair:
        """For whoever is asked as 127.0.0.1, ::1 or localhost."""
        addresses = [x509.IPAddress(ipaddress.ip_address(one)) for one in ("127.0.0.1", "::1")]
        return self._pair(name, (), ExtendedKeyUsageOID.SERVER_AUTH, [*addresses, x509.DNSName("localhost")])

    def client(self, name: str, *groups: str) -> Pair:
        return self._pair(name, groups, ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def _pair(
        self, name: str, groups: tuple[str, ...], use: x509.ObjectIdentifier, names: list[x509.GeneralName]
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name, groups), self._name, key.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        stem = name.replace(":", "-")
        pair = Pair(self._directory / f"{stem}.crt", self._directory / f"{stem}.key")
        pair.certificate.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))
        _write_key(pair.key, key)
        return pair


def signing_key(path: Path) -> Path:
    """A private key for tokens."""
    _write_key(path, rsa.generate_private_key(public_exponent=65537, key_size=2048))
    return path


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - datetime.timedelta(minutes=5),
        not_valid_after=now + _FOR,
    )


def _name(name: str, groups: tuple[str, ...]) -> x509.Name:
    parts = [(NameOID.COMMON_NAME, name), *((NameOID.ORGANIZATION_NAME, group) for group in groups)]
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
