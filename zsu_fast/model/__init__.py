"""What every floor needs of a model: the module behind wrappers, its tensors by name, their fingerprints, a lock."""
