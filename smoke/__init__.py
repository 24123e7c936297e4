"""The smoke test: the real server under load for half a minute, every message held to a ledger."""
