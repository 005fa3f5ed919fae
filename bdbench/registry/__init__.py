"""What is installed: the hooks, the plugins, and what they register."""
