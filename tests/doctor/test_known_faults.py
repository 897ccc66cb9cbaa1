"""Known faults: judged by what is computed, not by a number."""

import pathlib
import re

import pytest

from cnn_jax.doctor.child import Answer
from cnn_jax.doctor.computations import ABORTING, PROBES
from cnn_jax.doctor.known_faults import KNOWN_FAULTS, YNN_OFF, judge_known_faults

NUMERICS = pathlib.Path(__file__).parents[2] / "docs" / "numerics.md"
RIGHT = {name: {"result": 0.0} for name in PROBES}


def judged(found, platform="cpu", version="0.10.2", **other):
    answer = Answer(
        found, other.get("ended"), other.get("problem", ""), "", "late" in other
    )
    findings = list(judge_known_faults(version, platform, answer))
    return dict(zip((each.probe for each in KNOWN_FAULTS), findings, strict=True))


def test_each_has_a_probe_and_a_source():
    assert {each.probe for each in KNOWN_FAULTS} == set(PROBES)
    assert set(ABORTING) <= set(PROBES)
    page = NUMERICS.read_text(encoding="utf-8")
    for each in KNOWN_FAULTS:
        assert each.source in page


def test_a_version_that_computes_right_is_not_blamed():
    assert {each.verdict for each in judged(RIGHT).values()} == {"ok"}


def test_a_wrong_result_is_named_with_its_issue_and_remedy():
    found = judged({**RIGHT, "fused_product": {"result": 0.96}})["fused_product"]
    assert found.verdict == "warning"
    assert "0.96 times" in found.sentence
    assert "issues/39103" in found.sentence
    assert "No kernel of cnn_jax" in found.sentence
    assert YNN_OFF in found.remedy
    found = judged({"shifted_convolution": {"result": 1e300}})["shifted_convolution"]
    assert "arbitrary" in found.sentence


def test_an_end_of_the_process_is_the_fault_and_its_lateness_is_not():
    ended = judged({}, ended="window_of_one", problem="ended by SIGABRT")
    assert "was ended" in ended["window_of_one"].sentence
    late = judged({}, ended="window_of_one", problem="it did not answer", late=True)
    assert "not tried: it did not answer" in late["window_of_one"].sentence


def test_what_is_not_tried_is_said():
    found = judged({k: v for k, v in RIGHT.items() if k not in ABORTING})
    assert "might end the group" in found["window_of_one"].sentence
    assert found["window_of_one"].verdict == "warning"
    assert "not tpu" in judged({}, platform="tpu")["fused_product"].sentence


@pytest.mark.parametrize("name", [name for name in PROBES if name not in ABORTING])
def test_probes_return_an_error(name):
    error = PROBES[name]()
    assert isinstance(error, float)
    assert error >= 0.0


def test_flags_are_spelled_as_the_page_has_them():
    page = NUMERICS.read_text(encoding="utf-8")
    assert re.search(re.escape(YNN_OFF), page)
