"""One raw video: whether it may be opened, what it holds, its frames and pieces of it, within limits."""
