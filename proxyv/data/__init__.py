"""Readers of the training data formats, labels and batches, and the synthetic pages."""
