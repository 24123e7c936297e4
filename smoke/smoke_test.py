"""Start the real server, load it over HTTP and WebSocket, and hold every message to what is promised.

    python smoke/smoke_test.py                          # 30 s on port 17784, in a temporary directory
    python smoke/smoke_test.py --duration 120 --port 19000 --storage memory
    python smoke/smoke_test.py --url http://127.0.0.1:6784    # a server that runs already
    python smoke/smoke_test.py --image qrusty-trio      # the container
    python smoke/smoke_test.py --binary /opt/qrusty-trio/bin/qrusty-trio    # an installed server

| exit status | meaning |
|---|---|
| 0 | Everything held |
| 1 | A promise was broken. What was expected, what was seen, and where the server's log lies is on stderr |
| 2 | An argument is not allowed |
| 3 | The server did not start: the port is in use, the binary is not the server, nobody answers at the URL |
| 4 | The server died, or broke off a connection, before it was told to stop |
| 130 | Interrupted |

Nothing is left running, whatever the exit status. The log of the server is kept unless the status is 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from smoke.command import main

    sys.exit(main())
