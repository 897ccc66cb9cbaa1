"""Looking at models and kernels: sizes, gradients, times."""
