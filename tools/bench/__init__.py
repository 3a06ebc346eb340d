"""What the bench commands share: ways to read clips, measuring them, saying what was found."""
