"""One life: from the handshake to the last clean-up."""
