"""Datasets that lie behind a URL: fetched tar by tar into a cache folder, and read there as local ones are."""
