"""Other ways to read the same clips, and our loader beside them."""
