"""Kill building and training again and again: at the end every byte is what it is without kills."""
