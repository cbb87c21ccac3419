"""The training loop, the evaluation loop and what they stand on."""
