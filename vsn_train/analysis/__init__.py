"""What can be computed from score files, without a model or a GPU."""
