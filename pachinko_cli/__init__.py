"""The `pachinko` command: scaffolds and serves Falcon applications that use falcon_pachinko."""
