"""The nursery tree: what runs, in which order it starts and stops."""
