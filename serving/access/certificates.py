"""The certificate of the two ports: checked before they open, so that what is wrong is said by name."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from serving.problems import Problem

SOON_DAYS = 14


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """What the ports will show. `chain` and `key` are PEM, as gRPC takes them."""

    names: tuple[str, ...]
    """DNS names and addresses that it is for."""
    ends: datetime
    chain: bytes
    key: bytes
    warning: str = ""
    """What a person should do soon; empty: nothing."""

    def __repr__(self) -> str:
        return f"Certificate(names={self.names}, ends={self.ends:%Y-%m-%d})"


def check_certificate(
    cert_file: str, key_file: str, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Certificate | None:
    """The certificate of `CLASSY_TLS_CERT` and `CLASSY_TLS_KEY`; None where neither is set.

    Raises:
        Problem: one of them is missing, unreadable, of another pair, expired or not valid yet.
    """
    if not cert_file and not key_file:
        return None
    if not cert_file or not key_file:
        absent, there = (
            ("CLASSY_TLS_CERT", "CLASSY_TLS_KEY") if not cert_file else ("CLASSY_TLS_KEY", "CLASSY_TLS_CERT")
        )
        raise _wrong(f"{absent}: is empty, but {there} is set; TLS needs both")
    chain, key = _read("CLASSY_TLS_CERT", cert_file), _read("CLASSY_TLS_KEY", key_file)
    try:
        certificate = x509.load_pem_x509_certificates(chain)[0]
    except (ValueError, IndexError):
        raise _wrong(
            f"CLASSY_TLS_CERT={cert_file!r}: has no certificate in PEM (-----BEGIN CERTIFICATE-----)"
        ) from None
    try:
        public = load_pem_private_key(key, password=None).public_key()
    except TypeError:
        raise _wrong(f"CLASSY_TLS_KEY={key_file!r}: is locked by a passphrase; give one without") from None
    except ValueError:
        raise _wrong(f"CLASSY_TLS_KEY={key_file!r}: has no private key in PEM (-----BEGIN PRIVATE KEY-----)") from None
    if _bytes(certificate.public_key()) != _bytes(public):
        raise _wrong(
            f"CLASSY_TLS_KEY={key_file!r}: is not the key of CLASSY_TLS_CERT={cert_file!r}; in a chain the "
            "server's own certificate comes first"
        )
    return _in_time(certificate, cert_file, chain, key, clock())


def _in_time(certificate: x509.Certificate, file: str, chain: bytes, key: bytes, now: datetime) -> Certificate:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if ends <= now:
        raise _wrong(f"CLASSY_TLS_CERT={file!r}: expired on {ends:%Y-%m-%d %H:%M} UTC; have it renewed")
    if begins > now:
        raise _wrong(
            f"CLASSY_TLS_CERT={file!r}: is valid from {begins:%Y-%m-%d %H:%M} UTC only; see the machine's clock"
        )
    days = (ends - now).days
    warning = f"CLASSY_TLS_CERT={file!r}: expires in {days} days; have it renewed" if days < SOON_DAYS else ""
    return Certificate(names=_names(certificate), ends=ends, chain=chain, key=key, warning=warning)


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = found.get_values_for_type(x509.IPAddress)
    return (*found.get_values_for_type(x509.DNSName), *(str(address) for address in addresses))


def _read(variable: str, file: str) -> bytes:
    try:
        return Path(file).expanduser().read_bytes()
    except OSError as error:
        raise _wrong(f"{variable}={file!r}: cannot be read: {error.strerror or error}") from error


def _bytes(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _wrong(says: str) -> Problem:
    return Problem("bad_request", says, detail="certificate")
