"""Optimisers of finite sums: a field, an estimator of it, a metric. They know nothing of signals or volumes."""
