"""A sample or its clips as a contact sheet, a GIF or an MP4: what tools/play.py writes."""
