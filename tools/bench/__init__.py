"""bench_loader.py and check_gpu.py: reading clips in several ways, measuring, and reporting."""
