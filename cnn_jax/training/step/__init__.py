"""A step of training or evaluation: pure functions of a state and a batch.

These modules need jax, flax, optax and NumPy, nothing else.
"""
