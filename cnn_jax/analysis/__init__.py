"""Analysis of models and kernels: saliency, sizes, gradients, times.

The functions on trained networks, and `summarize`, are exported here; the harnesses
for kernels are modules: `cases`, `gradcheck`, `residuals`, `timing`, `transformations`.
"""

from cnn_jax.analysis.endpoints import feature_maps as feature_maps
from cnn_jax.analysis.features import first_layer_filters as first_layer_filters
from cnn_jax.analysis.features import nearest_neighbours as nearest_neighbours
from cnn_jax.analysis.saliency import grad_cam as grad_cam
from cnn_jax.analysis.saliency import guided_backpropagation as guided_backpropagation
from cnn_jax.analysis.summary import summarize as summarize
