"""ASLAN: do two videos show the same action; pairs, folds, twelve distances a layer."""
