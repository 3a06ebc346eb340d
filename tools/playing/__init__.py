"""Samples and clips drawn: what tools/play.py writes."""
