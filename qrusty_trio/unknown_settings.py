"""Variables that look like settings and are none: most likely they are misspelt."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from qrusty_trio.config import TABLE

OWN_PREFIXES = ("QRUSTY_", "ROCKSDB_", "WS_PING_")
"""An unknown variable with one of these prefixes is reported as a likely typo."""
OF_COMMANDS = frozenset({"QRUSTY_URL", "QRUSTY_TOKEN", "QRUSTY_CA", "QRUSTY_CLIENT_CERT", "QRUSTY_CLIENT_KEY"})
"""What commands read, and a server does not."""
_OF_KUBERNETES = re.compile(
    r"[A-Z0-9_]+?_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""Variables that Kubernetes sets in every container for each service, even one named qrusty or qrusty-something."""


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that looks like a setting but is not one, with a suggestion if a name is similar.

    Requirements: API-0063
    """
    known = {row.variable for row in TABLE.values()}
    sentences = []
    for variable in sorted(environment.keys() - OF_COMMANDS):
        if variable.startswith(OWN_PREFIXES) and variable not in known and not _OF_KUBERNETES.fullmatch(variable):
            close = difflib.get_close_matches(variable, known, n=1, cutoff=0.8)
            hint = f"; is {close[0]} meant?" if close else ""
            sentences.append(f"{variable} is no setting of this server{hint}")
    return sentences
