"""From a batch to a checkpoint: models, optimiser, evaluation and the trainer."""
