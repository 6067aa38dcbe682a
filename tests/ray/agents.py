"""Agents of nodes without Ray: processes on this machine."""

import datetime
import ipaddress
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pools.ray.driver_messages import Up
from tests.support.service import ROOT

TOKEN = "a token of this test"
UNUSED_END_TIMEOUT_S = 1.0
"""The patience of these agents with connections that no worker is forked for."""
AGENT = f"""
from poolshift.node import zygote_session
from poolshift.node.agent import Agent
zygote_session.UNUSED_END_TIMEOUT_S = {UNUSED_END_TIMEOUT_S}
agent = Agent({TOKEN!r}, "127.0.0.1")
agent.start()
print(agent.port, flush=True)
agent.wait()
"""


@contextmanager
def running_agent(certificates: Mapping[str, str]) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """An agent's process and its port. With Ray's variables of certificates it serves TLS alone."""
    environment = {**os.environ, **certificates}
    command = [sys.executable, "-c", AGENT]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    assert process.stdout is not None
    with process:
        yield process, int(process.stdout.readline())
        process.kill()


def up(port: int, name: str = "a", slots: int = 2) -> Up:
    """The driver's news of an agent."""
    return Up(agent=name, host="127.0.0.1", port=port, token=TOKEN, node="node-1", slots=slots)


def issue_certificates(folder: Path) -> dict[str, str]:
    """Makes an authority and a certificate of it for the loopback; returns the variables by which Ray finds them."""
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("authority", "node")}
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of this test")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    extensions: dict[str, x509.ExtensionType] = {
        "authority": x509.BasicConstraints(ca=True, path_length=0),
        "node": x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
    }
    began = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    for name, key in keys.items():
        certificate = (
            x509.CertificateBuilder()
            .subject_name(authority if name == "authority" else subject)
            .issuer_name(authority)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(began)
            .not_valid_after(began + datetime.timedelta(days=1))
            .add_extension(extensions[name], critical=name == "authority")
            .sign(keys["authority"], hashes.SHA256())
        )
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    encoded = keys["node"].private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "node.key").write_bytes(encoded)
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(folder / "node.crt"),
        "RAY_TLS_SERVER_KEY": str(folder / "node.key"),
        "RAY_TLS_CA_CERT": str(folder / "authority.crt"),
    }
