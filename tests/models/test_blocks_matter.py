"""Parity would notice a misplaced block: with the references' weights, all matter.

For every block of a network, its weights change places with those of a block of the
same shapes, or where there is none its filters are put in reverse order; the logits
must move by over one percent, a hundred times the tolerance of parity.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.quick import QUICK, nightly_except
from references import ours

import cnn_jax

CHEAP = ("lenet5", "resnet20", "mobilenet_v1_0_25")


def planted_swaps(params):
    """Yields what is swapped, and the parameters with that one swap."""
    signatures = {}
    for name, block in params.items():
        signature = str(jax.tree.map(jnp.shape, block))
        signatures.setdefault(signature, []).append(name)
    for names in signatures.values():
        for position, name in enumerate(names):
            if len(names) > 1:
                other = names[(position + 1) % len(names)]
                swapped = {name: params[other], other: params[name]}
                yield f"{name} and {other}", {**params, **swapped}
            else:
                yield f"{name} reversed", {**params, name: reverse(params[name])}


def reverse(block):
    return jax.tree.map(lambda leaf: leaf[..., ::-1], block)


@pytest.mark.parametrize("name", nightly_except(CHEAP, QUICK))
def test_any_swapped_block_moves_the_logits(name):
    variables, _ = cnn_jax.load_pretrained(name, ours.reference_arrays(name))
    x, _ = ours.example(name)
    infer = ours.logits_fn(cnn_jax.create_model(name))
    logits = np.asarray(infer(variables, x))
    # Auxiliary heads have no part in inference.
    params = {
        key: block
        for key, block in variables["params"].items()
        if not key.startswith("aux")
    }
    moved = {}
    for swap, wrong in planted_swaps(params):
        changed = infer({**variables, "params": {**variables["params"], **wrong}}, x)
        moved[swap] = np.abs(changed - logits).max() / np.abs(logits).max()
    assert len(moved) >= 4
    weakest = min(moved, key=moved.get)
    assert moved[weakest] > 0.01, (weakest, moved[weakest])
