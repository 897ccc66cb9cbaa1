"""Checks of a host before a run, and of a network's numbers on it.

`cnn-jax doctor` prints what `examine` finds; `check_numerics` compares a training step
with float64, layer by layer.
"""

from cnn_jax.doctor.examination import Examination as Examination
from cnn_jax.doctor.examination import examine as examine
from cnn_jax.doctor.finding import Finding as Finding
from cnn_jax.doctor.numerics import check_numerics as check_numerics
