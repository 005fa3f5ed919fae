"""The machine and the process that work runs on: threads, precision, memory, pace, time limits, and the end of it."""
