"""Images and labels: what they are in memory, read from files, and made ready for a cell."""
