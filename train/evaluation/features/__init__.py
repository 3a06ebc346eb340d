"""Layers of a network as features of videos: files, parts that survive a kill, rows to learn from."""
