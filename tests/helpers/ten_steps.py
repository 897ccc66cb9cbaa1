"""Ten steps of a small ResNet, by one device or by many, in one process or in several.

As a program it is one of several processes:

    python ten_steps.py localhost:PORT NUM_PROCESSES PROCESS_ID DIRECTORY

which process 0 ends by writing `{"params", "batch_stats", "metrics"}` as
`DIRECTORY/STRATEGY.npz`. With `FAIL` as a fifth argument, the last process fails
halfway.
"""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import cnn_jax
from cnn_jax import sharding, trees
from cnn_jax.layers import statistics_scope
from cnn_jax.training import TrainState, train_step
from cnn_jax.training.devices.spread import ParallelStep, make_step

NUM_STEPS = 10
BATCH_SIZE = 16
OPTIMIZER = optax.sgd(0.05, momentum=0.9, nesterov=True)
QUICK = {"xla_backend_optimization_level": 0}
"""Compiled in a hurry: a tiny network runs for less time than it compiles."""


def make_state(dtype, shardings):
    """Returns the state before the first step, placed by the shardings."""
    state = _first_state(dtype)
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, state)
    return jax.tree.map(_place, state, shardings)


def abstract_state(dtype):
    """Returns the shapes and dtypes of the state."""
    return jax.eval_shape(_creation(dtype))


# The same network each time: states of two, even if equal, are trees of two kinds.
@functools.cache
def _creation(dtype):
    model = cnn_jax.create_model(
        "resnet20",
        stage_sizes=(0, 1),
        stage_features=(8, 16),
        stem_features=8,
        dtype=dtype,
        param_dtype=dtype,
    )

    def create():
        image = jnp.zeros((1, 8, 8, 3), dtype)
        return TrainState.create(model, OPTIMIZER, jax.random.key(0), image)

    return create


@functools.cache
def _first_state(dtype):
    state = jax.jit(_creation(dtype), compiler_options=QUICK)()
    return jax.tree.map(np.asarray, state)


def make_batches(dtype):
    """Returns the steps' batches, in NumPy."""
    generator = np.random.default_rng(0)
    return [
        {
            "image": generator.normal(size=(BATCH_SIZE, 8, 8, 3)).astype(dtype),
            "label": generator.integers(0, 10, BATCH_SIZE).astype(np.int32),
        }
        for _ in range(NUM_STEPS)
    ]


def on_one_device(num_groups=1):
    """Returns the step on one device, with statistics of so many parts of the batch."""
    mesh = sharding.make_mesh(jax.local_devices()[:1])

    def step(*operands):
        with statistics_scope(num_groups=num_groups):
            return train_step(*operands)

    return ParallelStep(step, mesh, sharding.replicated(mesh))


def compile_step(step, dtype):
    """Returns the compiled step, and the state before the first one."""
    state = make_state(dtype, step.state)
    batch = _put(step, make_batches(dtype)[0])
    program = step.jitted(compiler_options=QUICK)
    return program.lower(state, batch, _key(step.mesh)).compile(), state


def run(step, dtype):
    """Returns the state and the last metrics after ten steps, in NumPy, by name."""
    program, state = compile_step(step, dtype)
    key = _key(step.mesh)
    for batch in make_batches(dtype):
        state, metrics = program(state, _put(step, batch), key)
    return to_host(step.mesh, state, metrics)


def to_host(mesh, state, metrics):
    """Returns the parameters, statistics and metrics, in NumPy, by name."""
    result = {
        "params": state.params,
        "batch_stats": state.batch_stats,
        "metrics": metrics,
    }
    copy = jax.jit(lambda tree: tree, out_shardings=sharding.replicated(mesh))
    result = copy(result)
    return {name: np.asarray(leaf) for name, leaf in trees.named_leaves(result).items()}


def relative_differences(found, expected):
    """Returns the norm of the difference over the norm, for each collection."""
    differences = {}
    for collection in ("params", "batch_stats", "metrics"):
        names = [name for name in expected if name.startswith(collection + "/")]
        square = sum(np.sum((found[name] - expected[name]) ** 2) for name in names)
        whole = sum(np.sum(expected[name] ** 2) for name in names)
        differences[collection] = float(np.sqrt(square / whole))
    return differences


def _key(mesh):
    make = functools.partial(jax.random.key, 1)
    return jax.jit(make, out_shardings=sharding.replicated(mesh))()


def _put(step, batch):
    shardings = step.batch(batch)
    return {name: _place(array, shardings[name]) for name, array in batch.items()}


def _place(array, where):
    """Puts this process's parts of an array together with the others'."""
    return jax.make_array_from_callback(array.shape, where, lambda index: array[index])


def main(address, num_processes, process_id, directory, fails=""):
    from cnn_jax.training.devices.processes import connected_hosts, is_main_process

    jax.config.update("jax_enable_x64", True)
    with connected_hosts(
        address, int(num_processes), int(process_id), heartbeat_timeout_seconds=10
    ):
        mesh = sharding.make_mesh()
        for strategy in ("jit", "shard_map"):
            step = make_step(train_step, strategy=strategy, mesh=mesh)
            result = run(step, np.float64)
            if fails and int(process_id) == int(num_processes) - 1:
                raise RuntimeError("as asked")
            if is_main_process():
                np.savez(pathlib.Path(directory) / f"{strategy}.npz", **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
