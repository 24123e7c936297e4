"""Whether the server of this container is ready: exit status 0 when /readyz says so, 1 with a reason when not.

Rule: nothing but the standard library, and no setting of its own. It asks where the first address of BIND_ADDR
says that the server listens.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys

SECONDS = 4.0
"""The server has this long to answer. Less than the timeout of HEALTHCHECK, so that the reason is told."""
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}


def problem() -> str | None:
    """What is wrong, None when the server is ready."""
    address = os.environ.get("BIND_ADDR", "0.0.0.0:6784").split(",")[0].strip()
    host, _, port = address.rpartition(":")
    if host == "unix":
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(SECONDS)
    else:
        connection = http.client.HTTPConnection(EVERYWHERE.get(host, host.strip("[]")), int(port), timeout=SECONDS)
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
