"""The tasks of the Trio run that is under way."""

from __future__ import annotations

import trio


def all_tasks() -> list[trio.lowlevel.Task]:
    """Every task, each before its children; none before the run has begun."""
    root = trio.lowlevel.current_root_task()
    found = [root] if root is not None else []
    for task in found:
        found += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found
