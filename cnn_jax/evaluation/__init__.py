"""Scores of weights on labelled images: `cnn-jax evaluate`.

scores.py   pure functions of logits and labels: accuracies, calibration, confusions
classes.py  the logit of each class of the data
split.py    a pass over a split, by the feeds that training evaluates with
run.py      `evaluate`: weights, data and recipe put together
results.py  `evaluation.json` and `evaluation.html`
"""

from cnn_jax.evaluation.run import Evaluation, evaluate
from cnn_jax.evaluation.scores import Scores

__all__ = ["Evaluation", "Scores", "evaluate"]
