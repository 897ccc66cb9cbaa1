"""timm's names for networks of inverted bottlenecks, one for all such families."""

from collections.abc import Mapping, Sequence

from cnn_jax.pretrained.rules import (
    TORCH_CONV,
    TORCH_CONV_AS_DENSE,
    TORCH_DENSE,
    TORCH_NORM,
    Leaf,
    Rule,
)


def inverted_bottlenecks(expands: Sequence[bool]) -> tuple[Rule, ...]:
    """Returns the rules.

    Args:
      expands: For each stage, whether its blocks begin with a 1x1 convolution.
    """
    rules = [
        Rule("conv_stem", "stem/conv", TORCH_CONV),
        Rule("bn1", "stem/norm", TORCH_NORM),
        Rule("conv_head", "last_conv/conv", TORCH_CONV),
        Rule("bn2", "last_conv/norm", TORCH_NORM),
        Rule("classifier", "head", TORCH_DENSE),
    ]
    for stage, expand in enumerate(expands):
        # What stands last is called `pwl` only where another `pw` stands first.
        layers = (
            {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
            if expand
            else {"depthwise": "conv_dw", "project": "conv_pw"}
        )
        for number, (name, conv) in enumerate(layers.items(), start=1):
            rules += [
                _rule(stage, conv, f"{name}/conv", TORCH_CONV),
                _rule(stage, f"bn{number}", f"{name}/norm", TORCH_NORM),
            ]
        for gate, name in (("conv_reduce", "squeeze"), ("conv_expand", "expand")):
            path = f"squeeze_excite/{name}"
            rules.append(_rule(stage, rf"se\.{gate}", path, TORCH_CONV_AS_DENSE))
    return tuple(rules)


def _rule(stage: int, layer: str, path: str, layout: Mapping[str, Leaf]) -> Rule:
    return Rule(
        rf"blocks\.{stage}\.(\d+)\.{layer}",
        lambda block: f"stage{stage + 1}_block{block + 1}/{path}",
        layout,
    )
