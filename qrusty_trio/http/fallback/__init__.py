"""What the fast path does not serve: Hypercorn and the Quart app, behind a guard that passes only valid requests."""
