"""Presets as data, and `--preset` on a command line."""

import pytest

from cnn_jax.training import TrainConfig
from cnn_jax.training.config.command_line import parse_config
from cnn_jax.training.config.preset import Preset, find_preset

PRESETS = {
    "tpu_8": Preset("eight chips", {"batch_size": 64, "learning_rate": 0.2}, "v5e:2x4"),
    "gpu_8": Preset("eight GPUs", {"batch_size": 32, "mesh": "data=8"}),
}


def parsed(*arguments):
    """The configuration of a command line, of which 5 epochs are the default."""
    default = TrainConfig(epochs=5, batch_size=16)
    return parse_config(default, "An experiment.", list(arguments), PRESETS)


def test_a_preset_changes_its_fields_and_no_other():
    config = parsed("--preset", "tpu_8")
    assert config == TrainConfig(epochs=5, batch_size=64, learning_rate=0.2)
    assert parsed("--preset=tpu_8") == config
    assert parsed() == TrainConfig(epochs=5, batch_size=16)


@pytest.mark.parametrize("order", [1, -1])
def test_a_field_that_is_given_wins_wherever_it_stands(order):
    options = [("--preset", "gpu_8"), ("--batch-size", "48"), ("--epochs", "2")]
    config = parsed(*(word for pair in options[::order] for word in pair))
    assert (config.batch_size, config.mesh, config.epochs) == (48, "data=8", 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "tpu_9"], "got 'tpu_9', expected one of tpu_8, gpu_8. Did you "),
        (["--preset", "TPU"], "got 'TPU', expected one of tpu_8, gpu_8.\n"),
        (["--preset"], "got '', expected a name behind --preset"),
        (["--preset", "--epochs", "3"], "got '--epochs', expected a name behind"),
        (["--preset", "tpu_8", "--preset=gpu_8"], "got tpu_8 and gpu_8, expected one"),
    ],
)
def test_a_wrong_preset_is_one_sentence(capsys, options, message):
    with pytest.raises(SystemExit) as error:
        parsed(*options)
    assert error.value.code == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"preset: {message}")
    assert err.count("\n") == 1
    assert not out


def test_help_lists_the_presets(capsys):
    with pytest.raises(SystemExit) as error:
        parsed("--help")
    assert error.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "--preset tpu_8: eight chips: batch_size 64, learning_rate 0.2" in words
    assert "--preset gpu_8: eight GPUs: batch_size 32, mesh data=8" in words


def test_without_presets_there_is_no_such_option(capsys):
    with pytest.raises(SystemExit) as error:
        parse_config(TrainConfig(), "An experiment.", ["--preset", "tpu_8"])
    assert error.value.code == 2
    assert "Unrecognized options: --preset" in capsys.readouterr().err


def test_a_preset_of_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match=r"got \['batch'\] in a preset \(a machine\)"):
        Preset("a machine", {"batch": 3})
    with pytest.raises(ValueError, match="Did you mean 'gpu_8'"):
        find_preset(PRESETS, "gpu_80")
