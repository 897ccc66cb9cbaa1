"""`cnn-jax plan`: tables, JSON and page of plans for simulated devices."""

import importlib.util
import json
import shlex

import pytest
from helpers.page import Page

from cnn_jax import cli


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("plans")


def run(capsys, *arguments):
    status = cli.main(["plan", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


STEP = ("lenet5", "--topology", "cpu:2", "--dtype", "float32")


def test_prints_a_plan(cache, capsys, tmp_path):
    page = tmp_path / "pages" / "plan.html"
    options = ("--batch", 8, "--cache", cache, "--html", page)
    status, out, err = run(capsys, *STEP, *options)
    assert status == 0
    assert err.startswith("lenet5 for cpu:2, batch 8")
    assert "lenet5 on cpu:2 (2 devices), batch 8 (4 a device), float32" in out
    for words in ("parameters", "activations", "FLOPs", "all-reduce", "not known"):
        assert words in out
    text = " ".join(Page(page.read_text()).texts)
    assert "lenet5 on cpu:2 (2 devices)" in text
    assert "Estimates of the compiler" in text
    assert "http" not in page.read_text().replace("http://www.w3.org", "")


def test_json_holds_all_of_it_and_its_command_runs(cache, capsys):
    status, out, _ = run(capsys, *STEP, "--batch", 8, "--cache", cache, "--json")
    assert status == 0
    record = json.loads(out)
    (plan,) = record["plans"]
    assert plan["cycles"] is None
    assert plan["memory"]["parameters"] == 4 * 61_706
    words = shlex.split(record["best_command"])
    assert words[:2] == ["cnn-jax", "plan"]
    status, out, _ = run(capsys, *words[2:], "--cache", cache, "--json")
    assert status == 0
    again = json.loads(out)["plans"][0]
    assert again["compiler"]["was_cached"]
    assert again["settings"] == plan["settings"]


def test_search_compares_and_says_what_it_left_out(cache, capsys):
    options = ("--batch", 8, 7, "--batch-norm-scope", "global", "--remat")
    status, out, err = run(
        capsys, *STEP, *options, "--search", "--cache", cache, "--json"
    )
    assert status == 0
    record = json.loads(out)
    assert "[1/2]" in err
    assert "[2/2]" in err
    (plan,) = record["plans"]
    assert plan["settings"]["remat"] is True
    assert record["best"] == 0
    (left_out,) = record["left_out"]
    assert "batch_size: got 7" in left_out
    (conclusion,) = record["conclusions"]
    assert record["best_command"] in conclusion


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("resnet51", "--topology", "cpu:2"), "resnet50"),
        (("lenet5",), "--topology"),
        (("lenet5", "--topology", "v5e"), "topology: got 'v5e'"),
        (("lenet5", "--topology", "cpu:99"), "8 CPU devices"),
        (("lenet5", "--topology", "cpu:2", "cpu:4"), "--search to compare several"),
        ((*STEP, "--batch", "7"), "batch_size: got 7"),
        ((*STEP, "--batch", "0"), "got '0'"),
        ((*STEP, "--mesh", "data=3"), "mesh: got data=3"),
        ((*STEP, "--batch-norm-scope", "all"), "batch_norm_scope: got 'all'"),
        ((*STEP, "--search", "--max-batch"), "not allowed with"),
        ((*STEP, "--reduce-dtype", "bfloat16"), "reduce_dtype"),
        ((*STEP, "--search", "--batch", "7", "9", "--mesh", "data=2"), "got 7"),
    ],
)
def test_errors_are_one_sentence(arguments, words, capsys):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_without_libtpu_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, _, err = run(capsys, "lenet5", "--topology", "v5e:2x4", "--batch", "64")
    assert status == 2
    assert err.endswith('expected it to be: pip install "cnn_jax[tpu]"\n')
