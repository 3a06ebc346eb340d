"""The H.264 codec: a keyframe every few frames, nothing that reaches over it, and clips joined to streams."""
