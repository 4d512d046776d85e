"""What every other part stands on: whole files, saved folders and the code they carry, registries, the Hub's names."""
