"""TLS: what is wrong with a certificate is said by name, and with one both ports speak TLS and nothing else."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import httpx
import pytest
import tritonclient.grpc as triton_grpc
import trustme
from cryptography.hazmat.primitives import serialization

from serving.access.certificates import SOON_DAYS, Certificate, check_certificate
from serving.problems import Problem
from serving.server import Server
from tests.serving import Open, Running, running
from tests.tiny import Tiny

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A good certificate (with its chain) and its key."""
    return write(authority.issue_cert("localhost", "127.0.0.1"), tmp_path_factory.mktemp("tls"))


def write(made: trustme.LeafCert, folder: Path, name: str = "server") -> tuple[str, str]:
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    return str(cert), str(key)


def wrong(cert: str, key: str, at: datetime = NOW) -> str:
    with pytest.raises(Problem) as error:
        check_certificate(cert, key, clock=lambda: at)
    assert "PRIVATE KEY-----\n" not in str(error.value)
    return str(error.value)


def good(cert: str, key: str, at: datetime = NOW) -> Certificate:
    found = check_certificate(cert, key, clock=lambda: at)
    assert found is not None
    return found


def test_a_good_certificate_tells_its_names_and_its_end_and_hides_its_key(files: tuple[str, str]) -> None:
    found = good(*files)
    assert found.names == ("localhost", "127.0.0.1")
    assert found.warning == ""
    assert "BEGIN" not in repr(found)
    assert check_certificate("", "") is None


def test_a_certificate_that_ends_soon_is_warned_of_and_one_that_ended_is_refused(files: tuple[str, str]) -> None:
    ends = good(*files).ends
    assert f"expires in {SOON_DAYS - 1} days" in good(*files, ends - timedelta(days=SOON_DAYS - 1, hours=1)).warning
    assert "expired on" in wrong(*files, ends)
    assert "is valid from" in wrong(*files, datetime(1990, 1, 1, tzinfo=UTC))


def test_what_is_wrong_with_the_files_is_named(files: tuple[str, str], authority: trustme.CA, tmp_path: Path) -> None:
    cert, key = files
    absent = str(tmp_path / "absent.pem")
    assert wrong(absent, key) == f"CLASSY_TLS_CERT={absent!r}: cannot be read: No such file or directory"
    assert wrong(cert, absent).startswith(f"CLASSY_TLS_KEY={absent!r}: cannot be read")
    assert wrong(cert, "") == "CLASSY_TLS_KEY: is empty, but CLASSY_TLS_CERT is set; TLS needs both"
    assert wrong("", key) == "CLASSY_TLS_CERT: is empty, but CLASSY_TLS_KEY is set; TLS needs both"
    assert "has no certificate in PEM" in wrong(key, key)
    assert "has no private key in PEM" in wrong(cert, cert)
    other = write(authority.issue_cert("localhost"), tmp_path)
    assert "is not the key of" in wrong(cert, other[1])
    garbage = tmp_path / "garbage.pem"
    garbage.write_bytes(b"-----BEGIN CERTIFICATE-----\n\xff\x00\n-----END CERTIFICATE-----\n")
    assert "has no certificate in PEM" in wrong(str(garbage), key)


def test_a_key_with_a_passphrase_is_told_from_a_broken_one(files: tuple[str, str], tmp_path: Path) -> None:
    cert, key = files
    loaded = serialization.load_pem_private_key(Path(key).read_bytes(), password=None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )  # fmt: skip
    assert "is locked by a passphrase" in wrong(cert, str(locked))


# -------------------------------------------------------------------------------------------------- both ports


@pytest.fixture(scope="module")
def server(files: tuple[str, str]):  # type: ignore[no-untyped-def]
    cert, key = files
    with running(Server(components={"classy": Tiny()}, gate=Open()), tls_cert=cert, tls_key=key) as found:
        yield found


def test_rest_speaks_tls_to_who_trusts_the_authority(server: Running, authority: trustme.CA) -> None:
    context = ssl.create_default_context()
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{server.rest}/v2/health/live", verify=context)
    authority.configure_trust(context)
    assert httpx.get(f"{server.rest}/v2/health/live", verify=context).status_code == 200
    answer = httpx.post(f"{server.rest}/predict", content=b"good", verify=context)
    assert answer.json()["label"] == "shoe"


def test_grpc_speaks_tls_to_who_trusts_the_authority(server: Running, authority: trustme.CA, tmp_path: Path) -> None:
    roots = tmp_path / "roots.pem"
    authority.cert_pem.write_to_path(str(roots))
    address = f"localhost:{server.grpc_port}"
    with triton_grpc.InferenceServerClient(address, ssl=True, root_certificates=str(roots)) as client:
        assert client.is_server_live()
        assert client.is_model_ready("classy")
    stranger = grpc.ssl_channel_credentials(trustme.CA().cert_pem.bytes())
    with grpc.secure_channel(address, stranger) as channel:
        assert status(channel) == grpc.StatusCode.UNAVAILABLE


def test_both_ports_refuse_plain_text(server: Running) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{server.rest_port}/v2/health/live")
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        assert status(channel) == grpc.StatusCode.UNAVAILABLE


def test_old_tls_is_refused(server: Running, authority: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{server.rest}/v2/health/live", verify=context)


def status(channel: grpc.Channel) -> grpc.StatusCode:
    """With what a call over this channel ends."""
    call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
    with pytest.raises(grpc.RpcError) as error:
        call(b"", timeout=5)
    code: grpc.StatusCode = error.value.code()  # type: ignore[attr-defined]
    return code
