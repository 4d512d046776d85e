"""What all other folders use: whole files, saved folders and the code they carry, registries, the Hub's names."""
