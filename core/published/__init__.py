"""Published HamGNN weights: what a checkpoint and its YAML file say of a network."""
