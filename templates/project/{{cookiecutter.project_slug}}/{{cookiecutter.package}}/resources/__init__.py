"""The resources: what serves a path, one file each."""
