"""A layer beside the Flax module that it stands for."""

import functools

import chex
import jax
import jax.numpy as jnp

from cnn_jax.analysis.gradcheck import FAST_COMPILATION


def assert_equals_flax(
    ours, theirs, x, generator, *, bounds=(-1.0, 1.0), rtol=1e-9, atol=1e-10
):
    """Asserts that two modules are one function of the same variables.

    Compared are the shapes of the output and of all variables, then, at variables and a
    cotangent drawn at random, the output, the updated statistics and the gradients by
    the parameters and the input.

    Args:
      ours: A linen module.
      theirs: Another one, with the same names.
      x: The input.
      generator: A NumPy generator.
      bounds: Between which the variables are drawn.
      rtol: By how much numbers may differ, relative to theirs.
      atol: By how much they may differ besides.
    """
    key = jax.eval_shape(jax.random.key, 0)
    output, shapes = jax.eval_shape(ours.init_with_output, key, x)
    assert (output, shapes) == jax.eval_shape(theirs.init_with_output, key, x)

    variables = jax.tree.map(
        lambda leaf: jnp.asarray(generator.uniform(*bounds, leaf.shape)), shapes
    )
    params = variables.get("params", {})
    dy = jnp.asarray(generator.normal(size=output.shape))

    def everything(module):
        def apply(params, x):
            return module.apply(
                {**variables, "params": params}, x, mutable=["batch_stats"]
            )

        @functools.partial(jax.jit, compiler_options=FAST_COMPILATION)
        def run(params, x):
            y, pullback, updates = jax.vjp(apply, params, x, has_aux=True)
            return y, updates, pullback(dy)

        return run(params, x)

    chex.assert_trees_all_close(
        everything(ours), everything(theirs), rtol=rtol, atol=atol
    )
