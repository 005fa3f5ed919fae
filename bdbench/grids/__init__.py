"""Many cells: what is to be run, who runs it, and the board that it fills."""
