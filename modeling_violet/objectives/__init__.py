"""What pre-training trains: one file for each objective, found by its name in `objective.OBJECTIVES`."""
