"""vsn-tools: one file a verb. main.py imports the verb that is asked for, and no other."""
