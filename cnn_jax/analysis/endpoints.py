"""A network cut at an endpoint: its activations, and the logits as a function of them.

A model returns its endpoints beside the logits, and a gradient with respect to an
output is no gradient with respect to what the logits were made from. So the network is
cut where it is one list of equations for all models alike: in its traced program. An
endpoint is a variable there, and the logits depend on it through the equations after
it. Those that lead from it to them become a function of their own; of the others, those
that this needs are run once. Auxiliary heads are endpoints too, but the logits do not
depend on them: the network cannot be cut there, and a cut network does not run them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.extend import core

Variables = Mapping[str, Any]


class TracedNetwork:
    """A network's program for images of one shape, in inference mode.

    Attributes:
      endpoints: Shape and dtype of every endpoint by name, in the order in which the
        model reached them.
      logits: Shape and dtype of the logits.
    """

    def __init__(self, model: nn.Module, variables: Variables, images: jax.Array):
        """Traces `model.apply(variables, images, train=False, endpoints=True)`."""
        names: list[str] = []

        def apply(variables, images):
            logits, named = model.apply(variables, images, train=False, endpoints=True)
            names[:] = named
            return logits, *named.values()

        closed, outputs = jax.make_jaxpr(apply, return_shape=True)(variables, images)
        self.logits: jax.ShapeDtypeStruct = outputs[0]
        self.endpoints: dict[str, jax.ShapeDtypeStruct] = dict(
            zip(names, outputs[1:], strict=True)
        )
        self._program = closed.jaxpr
        self._constants = list(closed.consts)

    @property
    def maps(self) -> tuple[str, ...]:
        """The names of the endpoints `(n, h, w, c)`, in order."""
        return tuple(name for name, leaf in self.endpoints.items() if leaf.ndim == 4)

    def cut(
        self, endpoint: str, variables: Variables, images: jax.Array
    ) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
        """Runs the network up to an endpoint.

        Args:
          endpoint: One of `endpoints`.
          variables: The model's variables.
          images: Normalised images of the traced shape.

        Returns:
          The endpoint's activations, and the function that maps activations in their
          place to the logits.

        Raises:
          ValueError: If there is no such endpoint or the logits do not depend on it.
        """
        if endpoint not in self.endpoints:
            raise ValueError(
                f"endpoint: got {endpoint!r}, expected one of {list(self.endpoints)}."
            )
        program: Any = self._program
        logits = program.outvars[0]
        place = program.outvars[1 + list(self.endpoints).index(endpoint)]
        above = _leading_to([logits], _equations_after(program, place))
        made_above = {variable for equation in above for variable in equation.outvars}
        if logits is not place and logits not in made_above:
            raise ValueError(
                f"endpoint: got {endpoint!r}, on which the logits do not depend, "
                "expected one that they depend on."
            )
        read_above = _distinct(
            variable
            for equation in above
            for variable in equation.invars
            if not isinstance(variable, core.Literal)
        )
        kept = [v for v in read_above if v not in made_above and v is not place]
        late = set(map(id, above))
        below = _leading_to(
            [place, *kept],
            [equation for equation in program.eqns if id(equation) not in late],
        )
        inputs = [*program.constvars, *program.invars]
        run_below = _as_function(program, inputs, below, [place, *kept])
        run_above = _as_function(program, [place, *kept], above, [logits])
        leaves = jax.tree.leaves((variables, images))
        activations, *others = run_below(*self._constants, *leaves)
        return activations, lambda activations: run_above(activations, *others)[0]


def feature_maps(
    model: nn.Module,
    variables: Variables,
    images: jax.Array,
    *,
    endpoints: Sequence[str] | None = None,
) -> dict[str, jax.Array]:
    """Returns the activations of a network's endpoints.

    Args:
      model: A model with the call `(x, *, train, endpoints)`.
      variables: Its variables.
      images: Normalised images `(n, height, width, channels)`.
      endpoints: Names of endpoints; None for all of shape `(n, h, w, c)`.

    Returns:
      The activations by name, of the endpoints' shapes and dtypes.

    Raises:
      ValueError: If the model has no such endpoint.
    """
    _, named = model.apply(variables, images, train=False, endpoints=True)
    if endpoints is None:
        endpoints = [name for name, array in named.items() if array.ndim == 4]
    unknown = [name for name in endpoints if name not in named]
    if unknown:
        raise ValueError(
            f"endpoints: got {', '.join(map(repr, unknown))}, expected some of "
            f"{list(named)}."
        )
    return {name: named[name] for name in endpoints}


def _equations_after(program: core.Jaxpr, start: core.Var) -> list[core.JaxprEqn]:
    """Returns the equations that read a variable, directly or not, in order."""
    reached, equations = {start}, []
    for equation in program.eqns:
        # A literal cannot be looked up, and depends on nothing.
        variables = (v for v in equation.invars if isinstance(v, core.Var))
        if not reached.isdisjoint(variables):
            equations.append(equation)
            reached.update(equation.outvars)
    return equations


def _leading_to(
    outputs: Sequence[core.Var], equations: Sequence[core.JaxprEqn]
) -> list[core.JaxprEqn]:
    """Returns the equations that variables depend on, directly or not, in order."""
    needed, found = set(outputs), []
    for equation in reversed(equations):
        if not needed.isdisjoint(equation.outvars):
            found.append(equation)
            needed.update(v for v in equation.invars if isinstance(v, core.Var))
    return found[::-1]


def _as_function(
    program: core.Jaxpr,
    inputs: Sequence[core.Var],
    equations: Sequence[core.JaxprEqn],
    outputs: Sequence[core.Var],
) -> Callable[..., Sequence[jax.Array]]:
    """Returns some of a program's equations as a function of arrays."""
    part = program.replace(constvars=(), invars=inputs, outvars=outputs, eqns=equations)
    # What a type checker finds in there differs between versions of JAX.
    extended: Any = core
    return extended.jaxpr_as_fun(extended.ClosedJaxpr(part, ()))


def _distinct(variables):
    return list(dict.fromkeys(variables))
