"""vsn-tools: one file a verb. main.py imports only the requested verb."""
