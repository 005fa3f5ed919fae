"""One cell of the benchmark, from the data to the record."""
