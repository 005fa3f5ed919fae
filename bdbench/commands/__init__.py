"""The commands of ``bdbench``, by what they are about. Each parses, calls and prints."""
