#!/usr/bin/env python3
"""Signs for jit-controller with a key of AWS KMS (ECC_NIST_P256, SIGN_VERIFY).

In controller.toml:

    [[signer.keys]]
    kind = "command"
    command = ["/usr/local/lib/jit/aws-kms-signer.py", "--key-id", "alias/jit-signer"]
    public_key = "kms.pub.pem"      # so that nobody can exchange the key unseen

It needs boto3, and the permissions kms:GetPublicKey and kms:Sign on this key. Region and credentials
come from the environment, a profile, or the machine's role, as boto3 finds them.
"""

import argparse
import base64
import json
import sys
import textwrap

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

# KMS takes a longer message only as its digest.
MAX_RAW = 4096


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--key-id", required=True, help="id, ARN or alias of the key")
    parser.add_argument("--region")
    parser.add_argument("--endpoint-url", help="another KMS, for tests")
    args = parser.parse_args()
    limits = Config(connect_timeout=3, read_timeout=3, retries={"max_attempts": 2})
    kms = boto3.client(
        "kms", region_name=args.region, endpoint_url=args.endpoint_url, config=limits
    )
    key = kms.get_public_key(KeyId=args.key_id)
    spec = key.get("KeySpec") or key.get("CustomerMasterKeySpec")
    if spec != "ECC_NIST_P256":
        sys.exit(f"the key {args.key_id} is {spec}; hosts verify ECC_NIST_P256")
    lines = textwrap.wrap(base64.b64encode(key["PublicKey"]).decode(), 64)
    pem = "\n".join(["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""])
    say({"public_key": pem})
    # Ends when the controller closes the input.
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            say({"id": asked["id"], "signature": sign(kms, args.key_id, asked)})
        except Exception as error:  # The controller must hear of everything that goes wrong.
            say({"id": asked["id"], "error": str(error)})


def sign(kms, key_id, asked):
    """The signature in base64: ASN.1 DER, as KMS makes it."""
    message, kind = base64.b64decode(asked["sign"]), "RAW"
    if len(message) > MAX_RAW:
        message, kind = base64.b64decode(asked["sha256"]), "DIGEST"
    signed = kms.sign(
        KeyId=key_id, Message=message, MessageType=kind, SigningAlgorithm="ECDSA_SHA_256"
    )
    return base64.b64encode(signed["Signature"]).decode()


def say(message):
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    try:
        main()
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"aws-kms-signer.py: {error}")
