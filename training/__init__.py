"""Labels, losses and the training loop."""
