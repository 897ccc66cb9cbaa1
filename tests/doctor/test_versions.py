"""Versions, against what is required."""

import importlib.metadata

import pytest

from cnn_jax.doctor import versions


@pytest.fixture
def given(monkeypatch):
    """Has packages be installed in other versions; None for not at all."""

    def give(**changed):
        real = importlib.metadata.version

        def version(name):
            name = name.replace("-", "_")
            if name in changed:
                if changed[name] is None:
                    raise importlib.metadata.PackageNotFoundError(name)
                return changed[name]
            return real(name)

        monkeypatch.setattr(importlib.metadata, "version", version)

    return give


def by_name(findings):
    return {each.name: each for each in findings}


def test_what_is_required_is_what_setup_cfg_says():
    required = versions.requirements()
    assert required["jax"] == ">=0.10.2"
    assert set(required["orbax-checkpoint"].split(",")) == {">=0.12", "<1"}
    assert "matplotlib" not in required  # of an extra


def test_the_installed_versions_are_right():
    findings = [*versions.check_packages(), versions.check_jaxlib()]
    assert [each for each in findings if each.verdict != "ok"] == []
    assert by_name(findings)["jax"].sentence.endswith(">=0.10.2 is required.")


def test_an_older_package_is_a_fault(given):
    given(flax="0.11.9", orbax_checkpoint="1.0.0")
    found = by_name(versions.check_packages())
    assert found["flax"].verdict == "fault"
    assert found["flax"].sentence == "got 0.11.9, expected >=0.12."
    assert "pip install 'flax>=0.12'" in found["flax"].remedy
    assert found["orbax-checkpoint"].verdict == "fault"
    assert found["jax"].verdict == "ok"


def test_a_package_that_is_missing_is_a_fault(given):
    given(grain=None)
    found = by_name(versions.check_packages())["grain"]
    assert found.verdict == "fault"
    assert found.sentence.startswith("not installed, expected grain>=")


def test_a_jaxlib_of_another_version_is_a_fault(given):
    given(jax="0.12.0.1", jaxlib="0.11.1", jax_cuda13_plugin="0.12.0")
    found = versions.check_jaxlib()
    assert found.verdict == "fault"
    assert "jaxlib 0.11.1" in found.sentence
    assert "plugin" not in found.sentence  # a patch of jax alone


def test_an_old_python_is_a_fault(monkeypatch):
    monkeypatch.setattr(versions.platform, "python_version", lambda: "3.10.14")
    found = versions.check_python()
    assert (found.verdict, "3.10.14" in found.sentence) == ("fault", True)


@pytest.mark.parametrize(
    ("version", "expected", "is_in"),
    [
        ("0.10.2", ">=0.10.2", True),
        ("0.9.30", ">=0.10.2", False),
        ("0.12.0rc1", ">=0.12", True),
        ("1.0", ">=0.12,<1", False),
        ("0.13.dev0+g1", ">=0.12,<1", True),
        ("2", "!=2.0", False),
        ("anything", "", True),
    ],
)
def test_ranges(version, expected, is_in):
    assert versions.satisfies(version, expected) is is_in
