"""Reference implementations of the models, and their recorded outputs.

    PYTHONPATH=tests python -m references.record_outputs 'resnet*'

runs a reference with weights by the formula in `weights` and writes down what it
computes; that needs the extra `parity`. The tests need only the files written.
"""
