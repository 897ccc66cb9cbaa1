"""`cnn-jax plan`: tables, JSON and page of plans for simulated devices."""

import importlib.util
import json
import shlex

import jax
import pytest
from helpers.page import Page

from cnn_jax import cli
from cnn_jax.cli import plan_making
from cnn_jax.planning.topology import find_devices


@pytest.fixture(autouse=True)
def devices():
    """The process has its devices; the first topology would make others."""
    return jax.devices()


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
        ((*STEP, "--max-batch"), "max_batch: got cpu:2, whose memory is not known"),
        ((*STEP, "--cache", ""), "cache: got an empty name"),
        ((*STEP, "--cache", "~nobody_of_this_name/x"), "cache: got '~nobody"),
        ((*STEP, "--cache", f"{__file__}/x"), "Not a directory"),
        ((*STEP, "--html", ""), "html: got ''"),
        ((*STEP, "--html", "."), "html: got '.'"),
        ((*STEP, "--html", f"{__file__}/x/page.html"), "Not a directory"),
        (("--topology", "cpu:2"), "MODEL: got none"),
        (
            ("--topology", "cpu:2", "lenet5", "--dtype", "float32", "vgg16"),
            "MODEL: got 'lenet5' and 'vgg16'",
        ),
        (("--topology", "cpu:2", "lenet5", "--batch", "8", "vgg16"), "got 'vgg16'"),
        ((*STEP, "--parallel", "pmap"), "expected one of jit, shard_map"),
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


@pytest.fixture
def asked(monkeypatch):
    """Has no plan made; returns the options and configurations asked for."""
    found = []

    def make(planner, candidate, place):
        found.append(candidate)
        planner.left_out.append("left out")

    monkeypatch.setattr(plan_making._Planner, "make", make)
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ("lenet5", "--topology", "cpu:2", "--batch", "8"),
        ("--topology", "cpu:2", "lenet5", "--batch", "8"),
        ("--topology", "cpu:2", "--batch", "8", "lenet5"),
        ("--batch", "8", "--topology", "cpu:2", "lenet5"),
        ("--batch", "8", "--topology", "cpu:2", "--mesh", "data=2", "lenet5"),
        ("--batch", "8", "--topology", "cpu:2", "--parallel", "jit", "lenet5"),
        ("--batch", "8", "--topology", "cpu:2", "--batch-norm-scope", "2", "lenet5"),
        ("--batch", "8", "--topology", "cpu:2", "--dtype", "float32", "lenet5"),
    ],
)
def test_the_model_may_come_first_or_last(arguments, asked, capsys, cache):
    run(capsys, *arguments, "--cache", cache)
    ((topology, config),) = [(each.topology, each.config) for each in asked]
    assert (topology, config.model, config.batch_size) == ("cpu:2", "lenet5", 8)


@pytest.mark.parametrize(
    "batches", [("--batch", 8, 16), ("--batch", 8, "--batch", 16, 8)]
)
def test_values_may_be_repeated_options(batches, asked, capsys, cache):
    single = ("--remat", "--batch-norm-scope", "global", "--search")
    run(capsys, *STEP, *batches, *single, "--cache", cache)
    assert [each.config.batch_size for each in asked] == [8, 16]


def test_a_search_plans_no_batch_twice(asked, capsys, cache):
    single = ("--remat", "--batch-norm-scope", "global", "--search")
    run(capsys, *STEP, "--batch", 1, *single, "--cache", cache)
    assert [each.config.batch_size for each in asked] == [1, 2]


def test_the_most_devices_are_made_first(asked, capsys, cache, monkeypatch):
    names = []

    def find(topology):
        names.append(topology.name)
        return find_devices(topology)

    monkeypatch.setattr(plan_making, "find_devices", find)
    options = ("--topology", "cpu:1", "cpu:4", "cpu:2", "--search", "--cache", cache)
    run(capsys, "lenet5", *options)
    assert names == ["cpu:4", "cpu:2", "cpu:1"]
    assert asked[0].topology == "cpu:1"


@pytest.mark.parametrize("is_search", [False, True])
def test_a_compiler_that_fails_is_a_sentence(is_search, capsys, cache, monkeypatch):
    def fail(*arguments, **options):
        raise jax.errors.JaxRuntimeError("INTERNAL: something\nmore of it")

    monkeypatch.setattr(plan_making, "make_plan", fail)
    options = ("--batch", 8, "--cache", cache, *["--search"] * is_search)
    status, _, err = run(capsys, *STEP, *options)
    assert status == 2
    assert "the compiler failed: INTERNAL: something more of it" in err
    assert err.count("compiling") == (1 if not is_search else 12)
