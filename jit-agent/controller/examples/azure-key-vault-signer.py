#!/usr/bin/env python3
"""Signs for jit-controller with a key of Azure Key Vault or Managed HSM (EC, P-256).

In controller.toml:

    [[signer.keys]]
    kind = "command"
    command = ["/usr/local/lib/jit/azure-key-vault-signer.py",
               "--key", "https://VAULT.vault.azure.net/keys/NAME/VERSION"]
    public_key = "vault.pub.pem"    # so that nobody can exchange the key unseen

It needs nothing but Python. The machine's managed identity needs the permissions `get` and `sign` on
keys (the role "Key Vault Crypto User"). Name the version: a new one is a new key, which hosts must
trust first.
"""

import argparse
import base64
import json
import sys
import textwrap
import time
import urllib.error
import urllib.parse
import urllib.request

API = "7.4"
IDENTITY = "http://169.254.169.254/metadata/identity/oauth2/token"
# SubjectPublicKeyInfo of a P-256 key up to its point (RFC 5480 section 2.1).
SPKI = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
SECONDS = 4


class Vault:
    """A key of a vault, and the token that opens it."""

    def __init__(self, key, identity, resource):
        self.key, self.identity, self.resource = key.rstrip("/"), identity, resource
        self.token, self.until = None, 0

    def call(self, path, body=None):
        """Calls the vault's REST API; None as body is GET."""
        request = urllib.request.Request(f"{self.key}{path}?api-version={API}")
        request.add_header("Authorization", f"Bearer {self.bearer()}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        return answer(request)

    def bearer(self):
        """A token of the machine's managed identity, a new one shortly before the last one ends."""
        if time.monotonic() > self.until:
            query = {"api-version": "2018-02-01", "resource": self.resource}
            request = urllib.request.Request(f"{self.identity}?{urllib.parse.urlencode(query)}")
            request.add_header("Metadata", "true")
            given = answer(request)
            self.token = given["access_token"]
            self.until = time.monotonic() + max(int(given["expires_in"]) - 300, 0)
        return self.token


def answer(request):
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        # The body has no secret, and says why.
        said = error.read(2000).decode(errors="replace")
        raise RuntimeError(f"{request.full_url}: {error.code} {error.reason}: {said}") from None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--key", required=True, help="the key's identifier, with its version")
    parser.add_argument("--identity-endpoint", default=IDENTITY)
    parser.add_argument("--resource", default="https://vault.azure.net")
    args = parser.parse_args()
    where = urllib.parse.urlsplit(args.key)
    if where.scheme != "https" and where.hostname not in ("127.0.0.1", "::1"):
        sys.exit("the key's identifier begins with https://")
    vault = Vault(args.key, args.identity_endpoint, args.resource)
    key = vault.call("")["key"]
    if key.get("crv") != "P-256":
        sys.exit(f"the key {args.key} is {key.get('kty')} {key.get('crv')}; hosts verify P-256")
    point = b"\x04" + unpadded(key["x"]) + unpadded(key["y"])
    lines = textwrap.wrap(base64.b64encode(SPKI + point).decode(), 64)
    pem = "\n".join(["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""])
    say({"public_key": pem})
    # Ends when the controller closes the input.
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            say({"id": asked["id"], "signature": sign(vault, asked)})
        except Exception as error:  # The controller must hear of everything that goes wrong.
            say({"id": asked["id"], "error": str(error)})


def sign(vault, asked):
    """The signature in base64: r and s with 32 bytes each, as ES256 has them (RFC 7518, 3.4)."""
    digest = base64.b64decode(asked["sha256"])
    value = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    signed = vault.call("/sign", {"alg": "ES256", "value": value})
    return base64.b64encode(unpadded(signed["value"])).decode()


def unpadded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def say(message):
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    try:
        main()
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        sys.exit(f"azure-key-vault-signer.py: {error!r}")
