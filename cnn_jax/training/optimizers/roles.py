"""The roles of a network's parameters: batch norm's, the head's, and their depth.

None of this is read off names. Batch norm is where running statistics are; the head is
what a network without classes lacks; and how deep parameters are follows from which of
the network's endpoints depend on them.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.extend import core

from cnn_jax import trees
from cnn_jax.layers import abstract_variables
from cnn_jax.training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class ParameterRoles:
    """Parameters by what they are to a network; their '/'-joined paths below `params`.

    Attributes:
      norms: Scales and biases of batch normalisation.
      head: What depends on the number of classes: the last layer, and with it
        auxiliary classifiers.
      depths: Every path -> the number of stages between it and the logits; 0 for the
        head. Stages without parameters do not count.
    """

    norms: frozenset[str] = frozenset()
    head: frozenset[str] = frozenset()
    depths: Mapping[str, int] = dataclasses.field(default_factory=dict)


def required_roles(
    config: TrainConfig, model: Any, images: jax.ShapeDtypeStruct
) -> ParameterRoles:
    """Finds what `make_optimizer` needs to know for a configuration, and no more.

    Args:
      config: The run's configuration.
      model: The network.
      images: Shape and dtype of a batch that it takes.

    Raises:
      ValueError: If the network cannot tell what is needed.
    """
    norms: frozenset[str] = frozenset()
    head: frozenset[str] = frozenset()
    depths: Mapping[str, int] = {}
    if config.batch_norm != "train":
        variables = abstract_variables(model, images)
        norms = norm_parameters(variables["params"], variables.get("batch_stats", {}))
    if config.l2_sp:
        head = head_parameters(model, images)
    if config.layer_decay is not None:
        depths = parameter_depths(model, images)
    return ParameterRoles(norms, head, depths)


def norm_parameters(params: Any, batch_stats: Any) -> frozenset[str]:
    """Returns the paths of the parameters of modules that keep running statistics."""
    modules = {_module(path) for path in trees.named_leaves(batch_stats)}
    return frozenset(
        path for path in trees.named_leaves(params) if _module(path) in modules
    )


def head_parameters(model: Any, images: jax.ShapeDtypeStruct) -> frozenset[str]:
    """Returns the paths of the parameters that a model without classes does not have.

    Args:
      model: A linen module with `num_classes`, of which 0 means none.
      images: Shape and dtype of a batch that it takes.

    Raises:
      ValueError: If there is no such attribute, or no head.
    """
    if not getattr(model, "num_classes", 0):
        raise ValueError(
            f"model: got {type(model).__name__} with num_classes "
            f"{getattr(model, 'num_classes', 'not among its attributes')}, expected a "
            "model with classes, whose last layer can be told from the others."
        )
    whole, features = (
        trees.leaf_specs(abstract_variables(each, images)["params"])
        for each in (model, model.clone(num_classes=0))
    )
    return frozenset(path for path, spec in whole.items() if features.get(path) != spec)


def backbone_pattern(model: Any, images: jax.ShapeDtypeStruct) -> str:
    """Returns a pattern for all parameters but the head's.

    Args:
      model: A linen module with `num_classes`, of which 0 means none.
      images: Shape and dtype of a batch that it takes.
    """
    head = "|".join(map(re.escape, sorted(head_parameters(model, images))))
    return f"^(?!(?:{head})$)"


def parameter_depths(model: Any, images: jax.ShapeDtypeStruct) -> dict[str, int]:
    """Returns how many stages lie between parameters and the logits.

    A stage ends where the model names an endpoint, and has the parameters on which that
    endpoint depends but none before it. An auxiliary head, which is an endpoint too,
    ends none: it has parameters on which the logits do not depend.

    Args:
      model: A linen module whose call takes `endpoints`.
      images: Shape and dtype of a batch that it takes.

    Returns:
      Path -> depth, for every parameter: 0 for what no stage depends on, which is the
      head, and auxiliary heads; 1 for the stage before it, and so on. Stages without
      parameters do not count.

    Raises:
      ValueError: If the model has no endpoints.
    """
    if "endpoints" not in inspect.signature(type(model).__call__).parameters:
        raise ValueError(
            f"model: got {type(model).__name__}, whose call has no endpoints that say "
            "where its stages end; name rates in learning_rate_groups instead."
        )
    variables = dict(abstract_variables(model, images))
    params = variables.pop("params")

    def outputs(params, variables, images):
        logits, named = model.apply(
            {"params": params, **variables}, images, train=False, endpoints=True
        )
        # A tuple keeps the order in which the model named them.
        return logits, *named.values()

    jaxpr = jax.make_jaxpr(outputs)(params, variables, images).jaxpr
    names = trees.named_leaves(params)
    inputs = dict(zip(names, jaxpr.invars[: len(names)], strict=True))
    stages: list[list[str]] = []
    found: set[str] = set()
    logits, *endpoints = (
        {name for name, variable in inputs.items() if variable in needed}
        for needed in (_dependencies(jaxpr, output) for output in jaxpr.outvars)
    )
    for endpoint in endpoints:
        if not endpoint <= logits:
            continue
        stage = [name for name in names if name in endpoint and name not in found]
        found.update(stage)
        if stage:
            stages.append(stage)
    depths = dict.fromkeys(names, 0)
    for depth, stage in enumerate(reversed(stages), start=1):
        depths.update(dict.fromkeys(stage, depth))
    return depths


def _dependencies(jaxpr: Any, output: Any) -> set[Any]:
    """Returns the variables of a program that one of its results depends on."""
    needed = {output}
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed.update(
                each for each in equation.invars if isinstance(each, core.Var)
            )
    return needed


def _module(path: str) -> str:
    return path.rpartition("/")[0]
