"""How a model is trained, left and taken up again, and read from a file of weights."""
