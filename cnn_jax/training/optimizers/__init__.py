"""Optimizers and schedules, and which parameters they apply to.

These modules need jax, flax, optax and NumPy, nothing else.
"""
