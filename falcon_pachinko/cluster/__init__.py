"""Many processes: what they tell each other, who is present, what rooms remember."""
