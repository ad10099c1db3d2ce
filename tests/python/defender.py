#!/usr/bin/env python3
"""Calls a controller by Microsoft's own client of Defender's just-in-time API, azure-mgmt-security.

Prints the answer as JSON. Exit codes: 0 done, 77 refused (`CODE: message` on standard error).
The token is in the environment: JIT_TOKEN.
"""

import argparse
import datetime
import json
import os
import sys
import time

from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.mgmt.security import SecurityCenter
from azure.mgmt.security.v2020_01_01 import models

GROUP, LOCATION = "rg1", "westeurope"


class Static:
    """A credential with one token."""

    def get_token(self, *scopes, **options):
        return AccessToken(os.environ["JIT_TOKEN"], int(time.time()) + 3600)


def put(policies, arguments):
    port = models.JitNetworkAccessPortRule(
        number=arguments.port,
        protocol="TCP",
        allowed_source_address_prefix="*",
        max_request_access_duration="PT1H",
    )
    machines = [
        models.JitNetworkAccessPolicyVirtualMachine(id=machine, ports=[port])
        for machine in arguments.machine
    ]
    body = models.JitNetworkAccessPolicy(kind="Basic", virtual_machines=machines)
    return policies.create_or_update(GROUP, LOCATION, arguments.name, body)


def initiate(policies, arguments):
    ends = datetime.datetime.now(datetime.timezone.utc)
    ends += datetime.timedelta(seconds=arguments.seconds)
    port = models.JitNetworkAccessPolicyInitiatePort(
        number=arguments.port,
        end_time_utc=ends,
        allowed_source_address_prefix=arguments.source,
    )
    machines = [
        models.JitNetworkAccessPolicyInitiateVirtualMachine(id=machine, ports=[port])
        for machine in arguments.machine
    ]
    body = models.JitNetworkAccessPolicyInitiateRequest(
        virtual_machines=machines, justification="disk full"
    )
    return policies.initiate(GROUP, LOCATION, arguments.name, body)


def lists(policies, arguments):
    """Each way to list, which must give the same."""
    every = [
        policies.list(),
        policies.list_by_region(LOCATION),
        policies.list_by_resource_group(GROUP),
        policies.list_by_resource_group_and_region(GROUP, LOCATION),
    ]
    every = [[one.serialize(keep_readonly=True) for one in pages] for pages in every]
    assert all(one == every[0] for one in every), every
    return every[0]


CALLS = {
    "put": put,
    "initiate": initiate,
    "list": lists,
    "get": lambda policies, arguments: policies.get(GROUP, LOCATION, arguments.name),
    "delete": lambda policies, arguments: policies.delete(GROUP, LOCATION, arguments.name),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--subscription", required=True)
    parser.add_argument("call", choices=CALLS)
    parser.add_argument("--name", default="default")
    parser.add_argument("--machine", action="append", default=[])
    parser.add_argument("--port", type=int)
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--source")
    arguments = parser.parse_args()
    client = SecurityCenter(
        Static(),
        arguments.subscription,
        base_url=arguments.url,
        connection_verify=arguments.ca,
        use_env_settings=False,
        retry_total=0,
    )
    try:
        answer = CALLS[arguments.call](client.jit_network_access_policies, arguments)
    except HttpResponseError as error:
        print(f"{error.error.code}: {error.error.message}", file=sys.stderr)
        return 77
    if hasattr(answer, "serialize"):
        answer = answer.serialize(keep_readonly=True)
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
