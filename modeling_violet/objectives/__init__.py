"""Pre-training objectives: one file for each, found by its name in `objective.OBJECTIVES`."""
