"""One command a file: parse, make one library call, report."""
