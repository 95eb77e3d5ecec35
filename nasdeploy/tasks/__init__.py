"""Tasks: what samples, targets and scores are, for each kind of network that nasdeploy trains."""
