"""Pictures for readers of a study: accuracy against cost, learning curves, filters of the first convolution."""
