"""The architecture study of arXiv:1708.05038, section 3: its tables as runs of the trainer, and what they show."""
