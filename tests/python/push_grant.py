#!/usr/bin/env python3
"""Signs a grant and pushes it to an agent, or signs a revocation: a controller in one file, made from
docs/signing.md and the .proto files alone. It shares no code with jitctl.

Needs cryptography, grpcio and grpcio-tools (requirements.txt). Exit codes: 0 accepted, 77 refused
(`refused: <reason word>: <detail>` on standard error), 69 no agent reached.
"""

import argparse
import hashlib
import importlib
import ipaddress
import pathlib
import re
import secrets
import sys
import tempfile
import time

import grpc
import grpc_tools
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from grpc_tools import protoc

GRANT_TYPE = "application/vnd.jit-agent.grant.v1+protobuf"
REVOCATION_TYPE = "application/vnd.jit-agent.revocation.v1+protobuf"
# How long a revocation is worth delivering: as long as a grant may last, and the clocks may differ.
KEEP_MS = (24 * 3600 + 60) * 1000
PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"

# The part of google.rpc that status details consist of; field numbers as published there.
ERROR_DETAILS = """
syntax = "proto3";
package google.rpc;
import "google/protobuf/any.proto";
message Status {
  int32 code = 1;
  string message = 2;
  repeated google.protobuf.Any details = 3;
}
message ErrorInfo {
  string reason = 1;
  string domain = 2;
  map<string, string> metadata = 3;
}
"""


def compile_protocol(proto, into):
    """Compiles the .proto files and returns the modules: agent, its service, grant, revocation,
    errors."""
    (into / "error_details.proto").write_text(ERROR_DETAILS)
    standard = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{proto}", f"-I{into}", f"-I{standard}"]
    arguments += [f"--python_out={into}", f"--grpc_python_out={into}"]
    arguments += sorted(str(file.relative_to(proto)) for file in proto.glob("jit/v1/*.proto"))
    arguments += ["error_details.proto"]
    if protoc.main(arguments) != 0:
        sys.exit(f"the .proto files in {proto} do not compile")
    sys.path.insert(0, str(into))
    names = ["agent_pb2", "agent_pb2_grpc", "grant_pb2", "revocation_pb2"]
    names = [f"jit.v1.{name}" for name in names] + ["error_details_pb2"]
    return [importlib.import_module(name) for name in names]


def pre_authentication_encoding(payload_type, payload):
    """What is signed (docs/grants.md, section "Envelope")."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(key, message):
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def verify(public_key, signature, message):
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        public_key.verify(signature, message)
    else:
        public_key.verify(signature, message, ec.ECDSA(hashes.SHA256()))


def key_id(public_key):
    der = public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()[:16]


def new_id():
    """A ULID: 48 bits of milliseconds, 80 random ones."""
    return int(time.time() * 1000).to_bytes(6, "big") + secrets.token_bytes(10)


def sealed(grant_pb2, payload_type, message, key):
    payload = message.SerializeToString()
    signature = sign(key, pre_authentication_encoding(payload_type, payload))
    return grant_pb2.Envelope(
        payload_type=payload_type,
        payload=payload,
        signatures=[grant_pb2.Signature(key_id=key_id(key.public_key()), signature=signature)],
    )


def refusal(errors, error):
    """The reason word in a gRPC error, or None."""
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            for detail in errors.Status.FromString(value).details:
                info = errors.ErrorInfo()
                if detail.Unpack(info) and info.domain == "jit-agent":
                    return info.reason
    return None


def call(arguments, errors, service, method, request):
    """The agent's answer, or None and the exit code."""
    credentials = grpc.ssl_channel_credentials(
        arguments.ca.read_bytes(), arguments.key.read_bytes(), arguments.cert.read_bytes()
    )
    with grpc.secure_channel(arguments.agent, credentials) as channel:
        stub = service.JitAgentStub(channel)
        try:
            return getattr(stub, method)(request, timeout=10, wait_for_ready=True), 0
        except grpc.RpcError as error:
            word = refusal(errors, error)
            if word is None:
                print(f"no answer: {error.code().name}: {error.details()}", file=sys.stderr)
                return None, 69
            detail = error.details().removeprefix(f"{word}: ")
            print(f"refused: {word}: {detail}", file=sys.stderr)
            return None, 77


def signed(arguments, grant_pb2, payload_type, message):
    """The envelope; with --flip, one whose payload was changed after it was signed."""
    key = serialization.load_pem_private_key(arguments.signing_key.read_bytes(), None)
    envelope = sealed(grant_pb2, payload_type, message, key)
    if arguments.flip is not None:
        payload = bytearray(envelope.payload)
        payload[arguments.flip] ^= 1
        envelope.payload = bytes(payload)
    return envelope


def push(arguments):
    with tempfile.TemporaryDirectory() as directory:
        modules = compile_protocol(arguments.proto, pathlib.Path(directory))
    agent_pb2, service, grant_pb2, _, errors = modules
    network = ipaddress.ip_network(arguments.source)
    now = int(time.time() * 1000)
    grant = grant_pb2.Grant(
        id=new_id(),
        hosts=[arguments.host],
        sources=[
            grant_pb2.Source(
                address=network.network_address.packed, prefix_length=network.prefixlen
            )
        ],
        ports=[
            grant_pb2.PortRange(
                protocol=grant_pb2.PROTOCOL_TCP, first=arguments.port, last=arguments.port
            )
        ],
        issued_at_ms=now,
        not_before_ms=now,
        not_after_ms=now + arguments.seconds * 1000,
        requester="ana@example.org",
        justification="signed by another implementation",
    )
    envelope = signed(arguments, grant_pb2, GRANT_TYPE, grant)
    request = agent_pb2.PushRequest(envelope=envelope)
    answer, code = call(arguments, errors, service, "Push", request)
    if answer:
        print(answer.outcome.reason, answer.outcome.grant_id.hex(), answer.outcome.not_after_ms)
    return code


def revoke(arguments):
    with tempfile.TemporaryDirectory() as directory:
        modules = compile_protocol(arguments.proto, pathlib.Path(directory))
    agent_pb2, service, grant_pb2, revocation_pb2, errors = modules
    now = int(time.time() * 1000)
    revocation = revocation_pb2.Revocation(
        hosts=[arguments.host],
        all=arguments.requester is None,
        requester=arguments.requester or "",
        issued_before_ms=now,
        author="bo@example.org",
        reason="signed by another implementation",
        keep_until_ms=now + KEEP_MS,
    )
    envelope = signed(arguments, grant_pb2, REVOCATION_TYPE, revocation)
    request = agent_pb2.RevokeRequest(signed=envelope)
    answer, code = call(arguments, errors, service, "Revoke", request)
    if answer:
        print(answer.reason, answer.revoked)
    return code


def check_example(arguments):
    """Goes through the worked example of docs/signing.md with this implementation."""
    page = arguments.page.read_text()
    with tempfile.TemporaryDirectory() as directory:
        modules = compile_protocol(arguments.proto, pathlib.Path(directory))
    _, _, grant_pb2, revocation_pb2, _ = modules
    blocks = {
        name: bytes.fromhex(body)
        for name, body in re.findall(r"^(.+), \d+ bytes:\n\n```text\n([0-9a-f\n]+)```$", page, re.M)
    }
    grant = grant_pb2.Grant.FromString(blocks["payload"])
    assert grant.hosts == ["web-1"] and grant.requester == "ana@example.org", grant
    message = pre_authentication_encoding(GRANT_TYPE, blocks["payload"])
    assert message == blocks["pae"], message
    private = re.findall(r"(-----BEGIN PRIVATE KEY-----.*?-----END PRIVATE KEY-----\n)", page, re.S)
    public = re.findall(r"(-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----\n)", page, re.S)
    hints = re.findall(r"whose `key_id` is `([0-9a-f]{16})`", page)
    assert len(private) == len(public) == len(hints) == 2
    for name, private, public, hint in zip(["ed25519", "p256"], private, public, hints):
        key = serialization.load_pem_private_key(private.encode(), None)
        shown = serialization.load_pem_public_key(public.encode())
        assert key.public_key() == shown, name
        assert key_id(shown) == hint, name
        verify(shown, blocks[f"{name} signature"], message)
        envelope = grant_pb2.Envelope.FromString(blocks[f"{name} envelope"])
        assert envelope.payload_type == GRANT_TYPE and envelope.payload == blocks["payload"]
        assert envelope.signatures[0].signature == blocks[f"{name} signature"]
        assert envelope.signatures[0].key_id == hint
        print(f"{name}: good")
    payload = blocks["revocation payload"]
    revocation = revocation_pb2.Revocation.FromString(payload)
    assert revocation.hosts == ["web-1"] and revocation.reason == "stolen key", revocation
    message = pre_authentication_encoding(REVOCATION_TYPE, payload)
    assert message == blocks["revocation pae"], message
    first = re.search(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----\n", page, re.S)
    shown = serialization.load_pem_public_key(first[0].encode())
    verify(shown, blocks["revocation signature"], message)
    envelope = grant_pb2.Envelope.FromString(blocks["revocation envelope"])
    assert envelope.payload_type == REVOCATION_TYPE and envelope.payload == payload
    assert envelope.signatures[0].signature == blocks["revocation signature"]
    print("revocation: good")
    return 0


def add_agent(command):
    """Arguments of a command that signs something and sends it."""
    command.add_argument("--agent", required=True, metavar="HOST:PORT")
    for name, what in [
        ("ca", "CA of the agent's certificate"),
        ("cert", "own certificate"),
        ("key", "its private key"),
        ("signing-key", "private key that signs, PKCS#8 PEM"),
    ]:
        command.add_argument(f"--{name}", required=True, type=pathlib.Path, help=what)
    command.add_argument("--host", required=True, help="id of the host")
    command.add_argument("--flip", type=int, metavar="BYTE", help="spoil this byte after signing")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--proto", type=pathlib.Path, default=PROTO, help="folder with jit/v1")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("push", help="sign a grant and push it")
    add_agent(command)
    command.add_argument("--source", required=True, help="address or prefix")
    command.add_argument("--port", required=True, type=int)
    command.add_argument("--seconds", required=True, type=int)
    command.set_defaults(run=push)
    command = commands.add_parser("revoke", help="sign a revocation and deliver it")
    add_agent(command)
    command.add_argument("--requester", help="whose grants; without it everybody's")
    command.set_defaults(run=revoke)
    command = commands.add_parser("check-example", help="verify the example of docs/signing.md")
    command.add_argument("page", type=pathlib.Path)
    command.set_defaults(run=check_example)
    arguments = parser.parse_args()
    return arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
