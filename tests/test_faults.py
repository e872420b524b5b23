"""Faults of a real server: an engine that hangs, files that vanish, numbers that changed, a certificate."""

import datetime
import ipaddress
import shutil
import signal
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.faults import engine_of
from client import Client, ConnectionFailed
from demo.local_server import STOP_SECONDS, LocalServer, ServerDidNotStart, running_server
from tests.conftest import FIXTURES

PROMPT = [2 + 7 * i % 900 for i in range(40)]
STALLED_SECONDS = 4


@dataclass(frozen=True)
class Deployment:
    """What a server is started with, in a folder of its own."""

    folder: Path

    @property
    def options(self) -> tuple[str, ...]:
        """A pair, a folder for its state, and TLS."""
        files = {
            "--model": "base",
            "--quantized": "quantized",
            "--state-dir": "state",
            "--ssl-certfile": "certificate",
            "--ssl-keyfile": "key",
        }
        return tuple(part for option, name in files.items() for part in (option, str(self.folder / name)))

    def copy_pair(self) -> None:
        """Put the pair into its place."""
        for name in ("base", "quantized"):
            shutil.copytree(FIXTURES / f"autogptq-0.7.1-{name}", self.folder / name)

    def sign_certificate(self) -> None:
        """Make a certificate for this machine that signs itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        (self.folder / "certificate").write_bytes(certificate.public_bytes(pem))
        (self.folder / "key").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    made = Deployment(tmp_path_factory.mktemp("deployment"))
    made.copy_pair()
    made.sign_certificate()
    return made


@pytest.fixture(scope="module")
def secured(deployment: Deployment) -> Iterator[LocalServer]:
    with running_server(*deployment.options) as live:
        yield live


def trusting(server: LocalServer, deployment: Deployment) -> Client:
    return Client(server.url, retries=0, verify=ssl.create_default_context(cafile=deployment.folder / "certificate"))


def test_a_client_that_trusts_the_certificate_is_answered_and_another_is_not(
    secured: LocalServer, deployment: Deployment
) -> None:
    assert secured.url.startswith("https://")
    with trusting(secured, deployment) as client:
        assert client.compare(prompt=PROMPT).summary.tokens == len(PROMPT) - 1
    with Client(secured.url, retries=0) as stranger, pytest.raises(ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED"):
        stranger.models()
    with Client(secured.url.replace("https", "http"), retries=0) as plain, pytest.raises(ConnectionFailed):
        plain.models()


def test_a_pair_whose_folders_vanish_is_served_on(secured: LocalServer, deployment: Deployment) -> None:
    with trusting(secured, deployment) as client:
        before = client.compare(prompt=PROMPT)
        for name in ("base", "quantized"):
            shutil.rmtree(deployment.folder / name)
        after = client.compare(prompt=PROMPT)
        assert (after.prompt, after.models) == (before.prompt, before.models)
        assert client.tokenize("some text").tokens
        assert client.ready()
    assert secured.stop() == 0


def test_a_start_whose_numbers_are_not_those_of_an_earlier_start_is_refused(
    secured: LocalServer, deployment: Deployment
) -> None:
    """After the last test: the server has ended, and has left its rows behind."""
    assert secured.process.poll() == 0
    deployment.copy_pair()
    (file,) = (deployment.folder / "state").glob("canary-*.npy")
    rows = np.load(file)
    rows[5, 0] += 1
    np.save(file, rows)
    with pytest.raises(ServerDidNotStart) as refused, running_server(*deployment.options):
        pass
    assert str(refused.value).startswith("exit code 2:\n")
    last = str(refused.value).splitlines()[-1]
    assert last.startswith(
        "qconf-server: error: the pair's numbers are not those of an earlier start: base_logprob of row 5"
    )
    assert last.endswith(f"(delete {file} to trust this start)")


def test_an_engine_that_hangs_ends_the_server_and_one_that_pauses_does_not() -> None:
    pair = ("--model", str(FIXTURES / "autogptq-0.7.1-base"), "--quantized", str(FIXTURES / "autogptq-0.7.1-quantized"))
    replies: list[httpx.Response] = []
    with running_server(*pair, "--stalled-seconds", str(STALLED_SECONDS)) as server:

        def ask() -> None:
            replies.append(httpx.post(f"{server.url}/compare", json={"prompt": PROMPT}, timeout=STOP_SECONDS))

        engine = engine_of(server)
        for pause in (STALLED_SECONDS / 4, 0):
            engine.send_signal(signal.SIGSTOP)
            asking = threading.Thread(target=ask)
            asking.start()
            if pause:
                time.sleep(pause)
                assert httpx.get(f"{server.url}/health").status_code == 200
                engine.send_signal(signal.SIGCONT)
                asking.join()
                assert replies[0].status_code == 200
        assert server.process.wait(STOP_SECONDS) == 1
        asking.join()
        assert replies[1].status_code == 503
        assert replies[1].json()["error"]["type"] == "unavailable"
        assert int(replies[1].headers["retry-after"]) > 0
        message = f"the engine has died: it has work and has finished no step for {STALLED_SECONDS} s"
        assert message in server.log.read_text()
        assert not engine.is_running()
