"""The experiments of arXiv:1708.05038: protocols and scoring."""
