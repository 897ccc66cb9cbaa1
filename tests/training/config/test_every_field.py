"""Each field of the configuration, with every kind of value that somebody may give."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from helpers.quick import nightly_except

from cnn_jax import experiment, ranges
from cnn_jax.training import TrainConfig
from cnn_jax.training.config.regularization import MODEL_FIELDS
from cnn_jax.training.run.fit import fit

DEFAULT = TrainConfig()
FIELDS = [field.name for field in dataclasses.fields(TrainConfig)]
ANNOTATIONS = ranges.declared(TrainConfig)
TINY = float(np.finfo(np.float32).tiny)

VALUES = {
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "-1": -1,
    "-0.5": -0.5,
    "0": 0,
    "0.0": 0.0,
    "tiny": 1e-300,
    "subnormal": 1e-40,
    "smallest": 5e-324,
    "huge": 1e300,
    "beyond float32": 1e39,
    "int64": 2**63,
    "beyond float64": 10**400,
    "1.5": 1.5,
    "True": True,
    "None": None,
    "number as text": "1",
    "empty text": "",
    "NUL": "a\0b",
    "escape": "\x1b[31m",
    "long text": "x" * 100_000,
    "bytes": b"1",
    "list": [],
    "list of NaN": [math.nan],
    "tuple": (),
    "tuple of NaN": (math.nan,),
    "tuple of infinity": (math.inf, math.inf, math.inf),
    "tuple of None": (None,),
    "pair with NaN": (("kernel", math.nan),),
    "pair with infinity": (("kernel", math.inf),),
    "pair with tiny": (("kernel", 1e-300),),
    "no pattern": ("(",),
    "pattern that overflows": ("a{99999999999}",),
    "too many": ("x",) * 100_000,
    "dict": {},
    "object": object(),
    "complex": 1j,
    "array": np.zeros(3),
}


def problems_of(config):
    """Returns what validation says, line by line; None if it says nothing."""
    try:
        config.validate()
    except ValueError as error:
        return str(error).splitlines()[1:]
    return None


def with_value(field, value, **others):
    return dataclasses.replace(DEFAULT, **others, **{field: value})


ACCEPTED = {
    (field, name): VALUES[name]
    for field in FIELDS
    for name in VALUES
    if problems_of(with_value(field, VALUES[name])) is None
}


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_has_a_range(field):
    assert not ranges.unbounded(ANNOTATIONS[field])


def test_a_field_without_one_is_noticed():
    @dataclasses.dataclass(frozen=True)
    class Extended(TrainConfig):
        temperature: float = 1.0
        names: tuple[str, ...] = ()

    found = {
        name: ranges.unbounded(annotation)
        for name, annotation in ranges.declared(Extended).items()
    }
    assert {name: kinds for name, kinds in found.items() if kinds} == {
        "temperature": ["<class 'float'>"],
        "names": ["<class 'str'>"],
    }


@pytest.mark.parametrize("field", FIELDS)
def test_what_is_refused_is_named_in_one_sentence(field):
    num_refused = 0
    for name, value in VALUES.items():
        lines = problems_of(with_value(field, value))
        if lines is None:
            continue
        num_refused += 1
        line = next(line for line in lines if line.startswith(f"  {field}: got "))
        assert ", expected " in line, name
        assert line.isprintable(), name
        assert len(line) < 800, name
    assert num_refused > len(VALUES) // 2


def numbers_in(value):
    if isinstance(value, tuple):
        return [number for each in value for number in numbers_in(each)]
    return [value] if isinstance(value, int | float) else []


@pytest.mark.parametrize(("field", "name"), ACCEPTED)
def test_what_is_accepted_is_what_the_field_is_for(field, name):
    value = getattr(with_value(field, ACCEPTED[field, name]), field)
    for number in numbers_in(value):
        assert number == 0 or TINY < abs(number) < 2**32
        assert number >= 0
    default = getattr(DEFAULT, field)
    if None not in (default, value):
        kinds = (int, float) if isinstance(default, float) else type(default)
        assert isinstance(value, kinds) or field == "batch_norm_scope"
    assert not isinstance(value, str) or 0 < len(value) <= 4096


LOOKED_UP = ("dataset", "train_split", "test_split", "data_dir", "augmentation")
LOOKED_UP += ("pretrained", "model")


@pytest.mark.parametrize("field", LOOKED_UP)
def test_a_name_that_nothing_has_is_refused_where_it_is_looked_up(field, tmp_path):
    value = str(tmp_path / "none") if field == "data_dir" else "nothing"
    others = {"dataset": "mnist"} if field == "data_dir" else {}
    config = with_value(field, value, image_size=8, epochs=1, **others)
    with pytest.raises(experiment.REFUSALS, match=r"got|looked in"):
        experiment.run(config)


# A directory or other machines are no part of what is learned; the rest is looked up,
# or a model's own.
NOT_LEARNED = {
    *LOOKED_UP,
    *MODEL_FIELDS,
    *("run_dir", "checkpoint_dir", "resume", "allow_changed", "compilation_cache"),
    *("mesh", "coordinator_address", "num_processes", "process_id"),
}


def learns(tiny_net, digits, **changes):
    """Trains for some steps, and asserts that it brought the loss down."""
    config = TrainConfig(
        model="tiny",
        image_size=8,
        batch_size=32,
        epochs=3,
        learning_rate=0.05,
        schedule="constant",
        log_every_steps=1,
    )
    config = dataclasses.replace(config, **changes)
    losses = []
    fit(
        tiny_net(dropout_rate=0.0),
        digits[0],
        config=config,
        progress=False,
        callbacks=[
            lambda line, state: (
                losses.append(line["loss"]) if line["event"] == "step" else None
            )
        ],
    )
    assert np.isfinite(losses).all()
    third = len(losses) // 3
    assert np.mean(losses[-third:]) < np.mean(losses[:third])


LEARNED = {
    (field, name): value
    for (field, name), value in ACCEPTED.items()
    if field not in NOT_LEARNED and name in ("0", "None", "True", "tuple", "1.5")
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "1.5" else ())
        for name in sorted({name for _, name in LEARNED})
    ],
)
def test_all_fields_together_with_a_value_that_they_accept_learn(
    name, tiny_net, digits
):
    """Values that validation lets through train: no field does nothing, or harm."""
    changes = {field: value for (field, each), value in LEARNED.items() if each == name}
    changes.pop("learning_rate", None)
    assert len(changes) >= 1
    learns(tiny_net, digits, **changes)


@pytest.mark.nightly
@pytest.mark.parametrize(("field", "name"), LEARNED)
def test_a_value_that_a_field_accepts_learns(field, name, tiny_net, digits):
    learns(tiny_net, digits, **{field: LEARNED[field, name]})


LEAST = {
    "erasing_probability": 1e-6,
    "momentum": 1e-6,
    "second_moment_decay": 1e-6,
    "epsilon": 1e-16,
    "weight_decay": 1e-12,
    "ema_decay": 1e-6,
    "sam_radius": 1e-6,
    "warmup_epochs": 1e-6,
    "label_smoothing": 1e-6,
    "auxiliary_weight": 1e-6,
    "mixup_alpha": 1e-3,
    "minimum_gain": 1e-6,
    "l2_sp": 1e-12,
    "initial_loss_scale": 1.0,
    "loss_scale_growth_steps": 1,
    "maximum_skipped_steps": 0,
    "std": (1e-3,),
    "mean": (0.0,),
}
MOST = {
    "maximum_gradient_norm": 1e9,
    "epsilon": 1.0,
    "second_moment_decay": 1 - 1e-6,
    "cutmix_alpha": 1e3,
    "initial_loss_scale": 2.0**24,
    "loss_scale_growth_steps": 2**31 - 1,
    "crop_padding": 7,
    "seed": 2**32 - 1,
    "mean": (1.0,),
    "std": (10.0,),
    "checkpoint_every_steps": 2**31 - 1,
    "patience": None,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "dtype", nightly_except(["bfloat16"], ["float32", "bfloat16", "float16"])
)
@pytest.mark.parametrize(("ends", "rate"), [(LEAST, 1e-3), (MOST, 1e-2)])
def test_the_ends_of_the_ranges_learn_in_every_dtype(
    ends, rate, dtype, tiny_net, digits
):
    learns(tiny_net, digits, optimizer="adamw", dtype=dtype, learning_rate=rate, **ends)


def option(field):
    return "--" + field.replace("_", "-")


# What the command line makes a number of reaches validation; the rest tyro refuses.
TYPED = [
    *(("learning_rate", text) for text in ("nan", "inf", "0", "1e-300", "1e300", "x")),
    *(("epsilon", text) for text in ("nan", "0", "1e-300", "1e300", "one")),
    *(("maximum_gradient_norm", text) for text in ("0", "1e-300", "inf")),
    *(("epochs", text) for text in ("0", "-1", "1.5", "1000000000000", "1e3")),
    *(("image_size", text) for text in ("0", "100000", "nan")),
    *(("crop_padding", text) for text in ("-1", "1000000000", "None")),
    *(("batch_size", text) for text in ("0", "99999999999999999999")),
    *(("seed", text) for text in ("-1", "4294967296", "0.5")),
    ("mean", "nan"),
    ("std", "inf"),
    ("drop_block_size", "1000000"),
    ("num_workers", "1000000"),
    ("keep_checkpoints", "0"),
    ("mixup_alpha", "1e-300"),
    ("initial_loss_scale", "1e300"),
    ("label_smoothing", "0.9999999999"),
    ("ema_decay", "0.99999999999"),
    ("compilation_cache", ""),
    ("mesh", "data=0"),
    ("batch_norm_scope", "0"),
    ("dtype", "float8"),
]


@pytest.mark.parametrize(("field", "text"), TYPED)
def test_the_command_line_says_it_and_exits(field, text, capsys, monkeypatch):
    def run(config):
        raise AssertionError("it ran")

    monkeypatch.setattr(experiment, "run", run)
    with pytest.raises(SystemExit) as exit_:
        experiment.main(DEFAULT, "A run.", [option(field), text])
    if exit_.value.code == 2:  # what tyro refuses
        said = capsys.readouterr().err
    else:
        said = exit_.value.code
        line = said.splitlines()[1]
        assert line.startswith(f"  {field}: got ")
        assert ", expected " in line
    assert "Traceback" not in said
    assert field in said.replace("-", "_")


def test_nothing_is_compiled_for_what_is_refused(monkeypatch):
    def compiled(*arguments, **options):
        raise AssertionError("something was traced")

    monkeypatch.setattr(jax, "jit", compiled)
    for field, value in {"std": (math.inf,), "epsilon": 1e300}.items():
        others = {"mean": (0.5,)} if field == "std" else {}
        with pytest.raises(ValueError, match=f"{field}: got"):
            experiment.run(with_value(field, value, **others))
