"""The training loop, the evaluation loop and the parts that they use."""
