"""What memory care brings: collections, freezing before the fork, giving back."""
