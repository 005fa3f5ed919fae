"""What attacks, defenses, data sets and models are; their parameters, names and code; and how theirs is called."""
