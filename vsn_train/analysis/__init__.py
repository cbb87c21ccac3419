"""Results of finished runs: scores, reports, comparison, export, attention."""
