"""A training step computed in several ways, and the first layer that differs."""

from cnn_jax.doctor.numerics.comparison import Comparison as Comparison
from cnn_jax.doctor.numerics.comparison import Difference as Difference
from cnn_jax.doctor.numerics.comparison import check_numerics as check_numerics
from cnn_jax.doctor.numerics.comparison import first_of as first_of
