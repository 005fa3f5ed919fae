"""Commands that are too long for ``cli.py``: one group a file."""
