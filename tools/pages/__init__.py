"""Pages to look at in a browser: one HTML file each, that needs no server and no network."""
