"""What answers a path: one file a resource."""
