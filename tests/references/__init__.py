"""The implementations that the models are held against, and what they compute.

    PYTHONPATH=tests python -m references.record_outputs 'resnet*'

runs a reference with weights by the formula in `weights` and writes down what it
computes; that needs the extra `parity`. The tests need only the files written.
"""
