import pipeline  # noqa: F401  makes this checkout known as res3d_video
