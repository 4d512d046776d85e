"""What objectives need of a batch, made in the worker: one file for each that needs something."""
