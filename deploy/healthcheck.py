"""Ask a service whether it is ready.

    python healthcheck.py HOST:PORT

Exit code 0 if its gRPC health is SERVING; otherwise 1 and one line.
"""

from __future__ import annotations

import sys
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SECONDS: Final = 3.0
"""How long the answer may take."""


def main(address: str) -> str | None:
    """What is wrong, in one line; None if the service at `address` is ready."""
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        except grpc.RpcError as error:
            return f"{address}: {error.code().name}: {error.details()}"
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return f"{address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
