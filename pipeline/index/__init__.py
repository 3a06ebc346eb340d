"""The index of a dataset: its arrays, written, checked and opened."""
