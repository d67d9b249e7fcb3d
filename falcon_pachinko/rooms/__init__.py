"""Many clients: who is where, and how a message gets to all of them."""
