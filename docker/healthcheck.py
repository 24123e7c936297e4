"""Whether the server of this container is ready: exit status 0 when /readyz says so, 1 with a reason when not.

Rule: nothing but the standard library, and no setting of its own. It asks where the first address of BIND_ADDR
says that the server listens.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import sys

SECONDS = 4.0
"""The server has this long to answer. Less than the timeout of HEALTHCHECK, so that the reason is told."""
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}  # noqa: S104  # an address to compare with


def _connection(host: str, port: int) -> http.client.HTTPConnection:
    certificate, key = os.environ.get("QRUSTY_TLS_CERT"), os.environ.get("QRUSTY_TLS_KEY")
    if not certificate:
        return http.client.HTTPConnection(host, port, timeout=SECONDS)
    # It asks itself, within its container: its certificate is for other names.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if os.environ.get("QRUSTY_TLS_CLIENT_CA"):
        client = os.environ.get("QRUSTY_CLIENT_CERT")
        context.load_cert_chain(client or certificate, os.environ.get("QRUSTY_CLIENT_KEY") if client else key)
    return http.client.HTTPSConnection(host, port, timeout=SECONDS, context=context)


def problem() -> str | None:
    """What is wrong, None when the server is ready."""
    address = os.environ.get("BIND_ADDR", "0.0.0.0:6784").split(",")[0].strip()
    host, _, port = address.rpartition(":")
    if host == "unix":
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(SECONDS)
    else:
        connection = _connection(EVERYWHERE.get(host, host.strip("[]")), int(port))
    try:
        if host == "unix":
            connection.sock.connect(port)
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        status = json.loads(response.read())["status"]
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        return f"no answer from {address}: {error}"
    finally:
        connection.close()
    return None if response.status == 200 else f"/readyz says {status}"


if __name__ == "__main__":
    sys.exit(problem())
