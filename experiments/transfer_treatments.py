"""The treatments of a pretrained network and some labelled examples in a study."""

from __future__ import annotations

import dataclasses
import functools
import time
import types
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from transfer_findings import Treatment

from cnn_jax import sharding, trees
from cnn_jax.data import Dataset, normalize
from cnn_jax.training import TrainConfig
from cnn_jax.training.optimizers.roles import head_parameters
from cnn_jax.training.run.build import build_run, compile_run
from cnn_jax.training.run.compiled import CompiledRun
from cnn_jax.training.run.fit import fit
from cnn_jax.transfer.probe import (
    Parameters,
    extract_features,
    fit_logistic_regression,
    with_head,
)

FEATURE_BATCH = 128
"""Images that features are computed of at once."""

ADAPTATION_STEPS = 50
"""Batches that statistics are adapted on; of the old ones 0.9^50 = 0.5 % remain."""


class Backbone(NamedTuple):
    """A network that has learned the first task.

    Attributes:
      model: The network, with the second task's classes.
      variables: Its variables; those of the last layer mean nothing.
      mean: Per channel, what its images were normalised with.
      std: Likewise.
      crop: The configuration's fields that say how images are brought to the input's
        size; empty where that is up to the second task's images.
    """

    model: Any
    variables: Mapping[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: Mapping[str, Any] = types.MappingProxyType({})

    def normalized(self, images: np.ndarray) -> jax.Array:
        """Returns uint8 images as the network takes them."""
        return normalize(images, self.mean, self.std)

    def batches(self, images: np.ndarray) -> Iterator[jax.Array]:
        """Yields them batch by batch."""
        for start in range(0, len(images), FEATURE_BATCH):
            yield self.normalized(images[start : start + FEATURE_BATCH])


class Learned(NamedTuple):
    """The result of a treatment.

    Attributes:
      variables: The network's, with a last layer for the second task.
      accuracy: On the test split.
      seconds: What learning took, without compilation and evaluation.
    """

    variables: Any
    accuracy: float
    seconds: float


class Learner:
    """Applies treatments, compiling each once.

    Args:
      backbone: What was learned before.
      test: The second task's test split.
      config: The recipe of the runs that train; its `mean` is the backbone's.
      scratch_learning_rate: What replaces its learning rate for random weights.
      steps: How many steps such runs take.
      probe_l2: The penalty of linear probes.

    Attributes:
      compile_seconds: What compiling has taken so far.
    """

    def __init__(
        self,
        backbone: Backbone,
        test: Dataset,
        config: TrainConfig,
        *,
        scratch_learning_rate: float,
        steps: int,
        probe_l2: float,
    ):
        self._backbone, self._test, self._config = backbone, test, config
        self._scratch_learning_rate = scratch_learning_rate
        self._steps, self._probe_l2 = steps, probe_l2
        self._images = jax.ShapeDtypeStruct((1, *test.image_shape), jnp.float32)
        self._head = head_parameters(backbone.model, self._images)
        self._compiled: dict[Treatment, CompiledRun] = {}
        self.compile_seconds = 0.0
        self._warmed_up: set[Hashable] = set()
        self._initialize = jax.jit(
            lambda key: backbone.model.init(
                key, jnp.zeros(self._images.shape), train=False
            )
        )

    def learn(self, treatment: Treatment, examples: Dataset, seed: int) -> Learned:
        """Learns the second task from some examples of it."""
        if treatment.approach == "feature_extraction":
            return self._probe(treatment, examples, seed)
        started, variables = 0.0, None
        if treatment.approach == "fine_tune":
            variables = self._with_new_head(seed)
        elif treatment.approach == "head_then_all":
            # The head is fitted to what the untouched network says.
            parameters, started = self._fit_probe(self._backbone.variables, examples)
            variables = self._with_probe(self._backbone.variables, parameters)
        result = self._train(treatment, examples, seed, variables)
        return Learned(
            result.best_variables,
            result.test["accuracy"],
            started + result.train_seconds,
        )

    def _train(self, treatment, examples, seed, variables):
        """Trains all layers; `variables` of None are random ones."""
        config = self._recipe(treatment, seed)
        splits = {"train": self._repeated(examples, seed), "test": self._test}
        model = self._backbone.model
        if treatment not in self._compiled:
            parts = build_run(
                model,
                config,
                splits,
                sharding.make_mesh(),
                initial_variables=variables,
            )
            self._compiled[treatment] = compile_run(parts)
            self.compile_seconds += self._compiled[treatment].compile_seconds
        return fit(
            model,
            splits["train"],
            test=splits["test"],
            config=config,
            progress=False,
            compiled=self._compiled[treatment],
            initial_variables=variables,
        )

    def _recipe(self, treatment: Treatment, seed: int) -> TrainConfig:
        rate = self._config.learning_rate
        if treatment.approach == "scratch":
            rate = self._scratch_learning_rate
        return dataclasses.replace(
            self._config,
            seed=seed,
            learning_rate=rate,
            batch_norm=treatment.batch_norm,
        )

    def _repeated(self, examples: Dataset, seed: int) -> Dataset:
        """Returns as many examples as the steps need, which makes them one epoch."""
        order = np.random.RandomState(seed).permutation(len(examples))
        return examples.take(np.resize(order, self._steps * self._config.batch_size))

    def _probe(self, treatment: Treatment, examples: Dataset, seed: int) -> Learned:
        variables, adapting = self._backbone.variables, 0.0
        if treatment.batch_norm == "adapt":
            variables, adapting = self._timed(
                "adapt", lambda: self._adapted(examples, seed)
            )
        parameters, fitting = self._fit_probe(variables, examples)
        features = self._features(variables, self._test)
        logits = features @ np.asarray(parameters["kernel"]) + parameters["bias"][None]
        accuracy = float(np.mean(np.argmax(logits, axis=1) == self._test.labels))
        learned = self._with_probe(variables, parameters)
        return Learned(learned, accuracy, adapting + fitting)

    def _fit_probe(
        self, variables: Mapping[str, Any], examples: Dataset
    ) -> tuple[Parameters, float]:
        """Fits a last layer; returns it and the seconds that it took."""

        def fit_head():
            return fit_logistic_regression(
                self._features(variables, examples),
                examples.labels,
                examples.num_classes,
                l2=self._probe_l2,
            )[0]

        return self._timed(("probe", len(examples)), fit_head)

    def _timed(self, kind: Hashable, function: Callable[[], Any]) -> tuple[Any, float]:
        """Returns a result and its seconds, once whatever it compiles is compiled."""
        if kind not in self._warmed_up:
            jax.block_until_ready(function())
            self._warmed_up.add(kind)
        started = time.perf_counter()
        result = jax.block_until_ready(function())
        return result, time.perf_counter() - started

    def _features(self, variables: Mapping[str, Any], examples: Dataset) -> np.ndarray:
        model = self._backbone.model.clone(num_classes=0)
        return extract_features(
            model, variables, self._backbone.batches(examples.images)
        )

    def _adapted(self, examples: Dataset, seed: int) -> dict[str, Any]:
        """Returns the pretrained variables with the examples' own statistics.

        Li et al., "Revisiting Batch Normalization For Practical Domain Adaptation",
        2016; here as running means over batches, which is how training takes them.
        """
        batch_size = self._config.batch_size
        order = np.random.RandomState(seed).permutation(len(examples))
        order = np.resize(order, (ADAPTATION_STEPS, batch_size))
        return _adapt(
            self._backbone.model,
            self._backbone.mean,
            self._backbone.std,
            self._backbone.variables,
            examples.images[order],
        )

    def _with_new_head(self, seed: int) -> Any:
        """Returns the pretrained variables with a last layer drawn at random."""
        drawn = self._initialize(jax.random.key(seed))
        params = trees.named_leaves(drawn["params"])
        old = trees.named_leaves(self._backbone.variables["params"])
        leaves = [params[path] if path in self._head else old[path] for path in params]
        structure = jax.tree.structure(drawn["params"])
        return {**self._backbone.variables, "params": structure.unflatten(leaves)}

    def _with_probe(self, variables: Any, parameters: Parameters) -> Any:
        return with_head(self._backbone.model, variables, parameters, self._images)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _adapt(model, mean, std, variables, images):
    """Runs batches `(steps, n, h, w, c)` through a network, for its statistics."""

    def advance(statistics, batch):
        _, changed = model.apply(
            {"params": variables["params"], "batch_stats": statistics},
            normalize(batch, mean, std),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return changed["batch_stats"], None

    statistics, _ = jax.lax.scan(advance, variables["batch_stats"], images)
    return {**variables, "batch_stats": statistics}
