"""Sub-commands of `violet` that are more than a call."""
