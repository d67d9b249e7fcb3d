"""The commands, one module each; they know nothing of each other."""
