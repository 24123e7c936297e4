"""The server: the tree of tasks, and the order in which they start and stop."""
