"""The command line, in process; once as the program that people start."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import jax
import pytest
from helpers.quick import nightly_except

import cnn_jax
from cnn_jax import cli, kernels
from cnn_jax.analysis import gradcheck
from cnn_jax.cli import usage
from cnn_jax.cli.usage import working
from cnn_jax.layers import abstract_variables
from cnn_jax.models import create_model, list_models, model_info
from cnn_jax.preprocessing import Preprocessing
from cnn_jax.report import table


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = cli.main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_models_are_listed_oldest_first(capsys):
    status, out, err = run(capsys, "models")
    assert (status, err) == (0, "")
    infos = [model_info(name) for name in list_models()]
    ordered = sorted(infos, key=lambda info: (info.year, info.name))
    lines = [line.split() for line in out.splitlines() if line]
    shown = [line[0] for line in lines if line[0] in list_models()]
    assert shown == [info.name for info in ordered]
    lenet5 = model_info("lenet5")
    assert f"{lenet5.parameters:,}" in out
    assert [line[:2] for line in lines].count(["lenet5", "1998"]) == 1
    # The accuracy, and whose measurement it is.
    assert "76.13" in out
    assert "torchvision" in out


def test_models_pattern_and_json(capsys):
    status, out, _ = run(capsys, "models", "plain*", "--json")
    content = json.loads(out)
    assert status == 0
    assert [entry["name"] for entry in content] == list_models("plain*")
    info = model_info(content[0]["name"])
    assert content[0]["parameters"] == info.parameters
    assert content[0]["mean"] == list(info.mean)
    assert Preprocessing.from_dict(content[0]["preprocessing"]) == info.preprocessing


def test_one_model_says_how_it_is_shown_images(capsys):
    status, out, _ = run(capsys, "models", "efficientnet_b3")
    assert status == 0
    text = " ".join(out.split())  # a narrow terminal breaks lines
    assert text.endswith(
        "Images: 300 x 300 x 3, center crop 0.9375, bicubic, mean 0.485 0.456 0.406, "
        "std 0.229 0.224 0.225. Images for timm's weights: 288 x 288 x 3, center crop "
        "0.875, bicubic, mean 0.485 0.456 0.406, std 0.229 0.224 0.225."
    )
    assert "Images" not in run(capsys, "models", "efficientnet_*")[1]


def test_summary_counts_and_totals(capsys):
    status, out, _ = run(capsys, "summary", "lenet5", "--json")
    content = json.loads(out)
    info = model_info("lenet5")
    assert status == 0
    assert content["model"] == "lenet5"
    assert (content["parameters"], content["macs"]) == (info.parameters, info.macs)
    status, table, _ = run(capsys, "summary", "lenet5")
    total = next(line for line in table.splitlines() if line.startswith("total"))
    counts = (info.parameters, info.macs, content["activation_bytes"])
    assert total.split()[-3:] == [f"{count:,}" for count in counts]
    for layer in content["layers"]:
        assert layer["path"] in table


def test_summary_takes_size_and_classes(capsys):
    arguments = ("summary", "lenet5", "--input-size", "40x36", "--num-classes", "3")
    status, out, _ = run(capsys, *arguments, "--json")
    content = json.loads(out)
    assert status == 0
    assert content["input_shape"] == [40, 36, 1]
    assert content["layers"][-1]["output_shape"] == [3]
    variables = abstract_variables(
        create_model("lenet5", num_classes=3),
        jax.ShapeDtypeStruct((1, 40, 36, 1), "float32"),
    )
    expected = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert content["parameters"] == expected
    assert run(capsys, *arguments[:3], "40", "--json")[0] == 0


def test_summary_takes_channels(capsys):
    arguments = ("summary", "lenet5", "--in-channels", "4", "--json")
    status, out, _ = run(capsys, *arguments)
    content = json.loads(out)
    assert status == 0
    assert content["input_shape"] == [32, 32, 4]
    info = model_info("lenet5")
    assert content["parameters"] == info.parameters + 3 * 25 * 6
    assert content["macs"] == info.macs + 3 * 25 * 6 * 28 * 28


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sumary", "lenet5"], ["unknown command 'sumary'", "'summary'"]),
        (["xyzzy"], ["expected one of models, summary, gradcheck"]),
        ([], ["required: COMMAND"]),
        (["summary", "resnet21"], ["unknown name 'resnet21'", "'resnet20'"]),
        (["summary", "lenet5", "--input-size", "3"], ["3 x 3", "resize"]),
        (["summary", "lenet5", "--input-size", "0"], ["got '0'", "positive"]),
        (["summary", "lenet5", "--in-channels", "0"], ["in_channels: got 0, expe"]),
        (["summary", "lenet5", "--num-classes", "-1"], ["num_classes: got -1"]),
        (["summary", "lenet5", "--num-classes", str(10**12)], ["num_classes: got 10"]),
        (["summary", "lenet5", "--num-classes", "9" * 5000], ["--num-classes: inv"]),
        (["summary", "resnet20", "--input-size", "99999999999"], ["up to 32,768"]),
        (["summary", "resnet20", "--input-size", "32769"], ["got '32769', expected"]),
        (["summary", "resnet20", "--input-size", "9" * 5000], ["(5,002 characters)"]),
        (["models", "[" + "z" * 100_000], ["no model matches"]),
        (["prepare", "mnist", "--from", ".", "--processes", "0"], ["got '0', expec"]),
        (["prepare", "mnist", "--from", ".", "--processes", str(10**9)], ["1,024"]),
        (["summary", "lenet5", "--num-clases", "3"], ["--num-clases"]),
        (["models", "resnet20x"], ["no model matches", "'resnet20'"]),
        (["models", "@@@"], ["no model matches", "lenet5"]),
        (["gradcheck", "--kernel", "max_pol"], ["'max_pol'", "'max_pool'"]),
    ],
)
def test_mistakes_exit_with_2_and_say_what_is_meant(capsys, arguments, words):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("cnn-jax: error: ")
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_gradcheck_passes_and_prints_every_comparison(capsys):
    status, out, err = run(capsys, "gradcheck", "--kernel", "dense")
    assert (status, err) == (0, "[1/1] dense\n")
    rows = [line.split() for line in out.splitlines() if line.startswith("dense")]
    assert [row[1] for row in rows] == ["output", "dx", "dw", "db"]
    assert {row[-1] for row in rows} == {"ok"}
    assert "All 4 comparisons agree." in out


def test_gradcheck_fails_with_1_when_a_gradient_is_wrong(capsys, monkeypatch):
    monkeypatch.setattr(kernels, "relu", wrong_of(kernels.relu))
    status, out, _ = run(capsys, "gradcheck", "--kernel", "relu")
    assert status == 1
    assert "FAILED" in out
    status, out, _ = run(capsys, "gradcheck", "--kernel", "relu", "--json")
    content = json.loads(out)
    assert (status, content["passed"]) == (1, False)
    by_argument = {row["argument"]: row for row in content["rows"]}
    assert by_argument["output"]["passed"]
    assert by_argument["dx"]["worst_relative_error"] == pytest.approx(0.01)


def test_gradcheck_says_at_once_which_kernel_is_at_work(capsys, monkeypatch):
    """On standard error, so that what is redirected stays what it was."""
    seen = []

    def look(chosen):
        seen.append(capsys.readouterr().err)
        (name,) = chosen
        return [gradcheck.GradcheckRow(name, "dx", 1, 0.0, 1e-12, True)]

    monkeypatch.setattr(gradcheck, "run_gradcheck", look)
    arguments = ["gradcheck", "--kernel", "relu", "--kernel", "dense", "--json"]
    status, out, err = run(capsys, *arguments)
    assert (status, err) == (0, "")
    assert seen == ["[1/2] dense\n", "[2/2] relu\n"]
    assert len(json.loads(out)["rows"]) == 2


def test_a_terminal_sees_what_is_at_work(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with working("tracing a network"):
        pass
    assert "tracing a network" in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    with working("tracing a network"):
        pass
    assert capsys.readouterr().err == ""


def wrong_of(relu):
    """A relu whose gradient is one percent too big."""

    @jax.custom_vjp
    def wrong(x):
        return relu(x)

    wrong.defvjp(lambda x: (relu(x), x), lambda x, dy: (1.01 * dy * (x > 0),))
    return wrong


def test_gradcheck_runs_on_the_cpu_in_float64(capsys, monkeypatch):
    seen = []

    def look(chosen):
        array = jax.numpy.zeros(())
        seen.append((kernels.platforms.current_target(), array.devices()))
        row = gradcheck.GradcheckRow("dense", "dx", 1, float("inf"), 1e-12, False)
        assert list(chosen) == ["dense"]
        return [row]

    monkeypatch.setattr(gradcheck, "run_gradcheck", look)
    status, out, _ = run(capsys, "gradcheck", "--kernel", "dense")
    assert (status, seen) == (1, [("cpu", {jax.devices("cpu")[0]})])
    assert "inf" in out
    assert (
        json.loads(run(capsys, "gradcheck", "--kernel", "dense", "--json")[1])["rows"][
            0
        ]["worst_relative_error"]
        is None
    )
    fields = {field.name for field in dataclasses.fields(gradcheck.GradcheckRow)}
    assert fields >= {"kernel", "argument", "num_cases", "tolerance", "passed"}


def test_the_program_starts():
    program = [sys.executable, "-m", "cnn_jax.cli", "--version"]
    done = subprocess.run(program, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"cnn_jax {cnn_jax.__version__}\n")


@pytest.mark.parametrize("arguments", [["models"], ["models", "--json"]])
def test_a_reader_that_has_seen_enough_gets_no_complaint(arguments):
    # A pipe whose reading end is closed: what `| head` leaves behind.
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "cnn_jax.cli", *arguments],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (1, "")


NAME = "cats \x1b]0;title\x07 and \udcff"
SHOWN = "cats \\x1b]0;title\\x07 and \\udcff"


def test_names_are_escaped(capsys, monkeypatch):
    shown = table.Table(NAME, [table.Column("a", NAME)], [{"a": NAME}], [NAME])
    table.print_table(shown)
    out = capsys.readouterr().out
    assert out.count(SHOWN) == 4
    assert "\x1b" not in out
    usage.print_text(NAME)
    assert capsys.readouterr().out == SHOWN + "\n"
    usage.print_json({"name": NAME})
    assert json.loads(capsys.readouterr().out) == {"name": NAME}
    status, _, err = run(capsys, "models", "--" + NAME)
    assert (status, SHOWN in err, "\x1b" in err) == (2, True, False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with working(f"[/nothing] {NAME}"):  # no markup of `rich`
        pass


def start(*arguments, **options):
    """Starts the program as people do, where Ctrl-C is heard."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
        "; from cnn_jax.cli import main; print('begun', file=sys.stderr, flush=True)"
        "; sys.exit(main())"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, **options
    )


def test_a_result_that_cannot_be_written_is_one_sentence():
    with open("/dev/full", "w") as full:
        process = start("models", stdout=full)
        error = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 1
    error = error.removeprefix("begun\n")
    assert error.startswith("cnn-jax: error: standard output cannot be written: ")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("after", nightly_except([0.5], [0.1, 0.5]))
@pytest.mark.parametrize(
    ("command", "number", "status"),
    [
        ("summary", signal.SIGINT, 130),
        ("summary", signal.SIGTERM, 143),
        ("train", signal.SIGINT, 75),
        ("train", signal.SIGTERM, 75),
    ],
)
def test_a_signal_while_it_starts_is_one_sentence(command, number, status, after):
    data = ("--data", "digits") if command == "train" else ()
    process = start(command, "resnet50", *data)
    assert process.stderr.readline() == b"begun\n"
    time.sleep(after)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1].decode()
    assert (process.returncode, len(error.splitlines())) == (status, 1), error
    assert error.startswith(f"{number.name}: stopped before ")
