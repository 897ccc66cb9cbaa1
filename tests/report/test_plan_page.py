"""Tables and page of plans, from records as `cnn-jax plan` makes them."""

import pytest
from helpers.browser import WIDTHS, assert_pages_fit, needs_chromium
from helpers.page import EVIL, Page

from cnn_jax.report import plan_page


def plan_record(batch=128, *, fits=True, cycles=3_000_000, total=2**33):
    counted = cycles or 0
    layer = {"forward": counted // 3, "backward": counted // 3, "update": 0}
    layer |= {"cycles": 2 * (counted // 3), "count": 2}
    rest = counted - layer["cycles"]
    return {
        "settings": {
            "model": "resnet50",
            "topology": "v5e:2x4",
            "batch_size": batch,
            "image_size": 224,
            "dtype": "bfloat16",
            "parallel": "jit",
            "mesh": "data=8",
            "batch_norm_scope": "global",
            "reduce_dtype": None,
            "optimizer": "sgd",
            "remat": False,
        },
        "devices": {"count": 8, "per_chip": 1, "images": batch // 8, "kind": "TPU"},
        "fits": fits,
        "refusal": "" if fits else "RESOURCE_EXHAUSTED",
        "memory": {
            **dict.fromkeys(plan_page.PARTS, 0),
            "total": total,
            "available": 2**34,
        },
        "flops": 5e12,
        "bytes": 8e10,
        "cycles": cycles,
        "without_estimate": 0,
        "roofline": {
            "intensity": 62.5,
            "ridge": 240.0,
            "bound": "memory",
            "compute_seconds": 0.025,
            "memory_seconds": 0.1,
        },
        "speed": {
            "collective_seconds": 1e-3,
            "step_seconds": 0.15,
            "mfu": 0.2,
            "images_per_second": 13000.0,
            "collective_share": 0.01,
        },
        "layers": [
            {"layer": "stage1_block1/conv1", **layer},
            {
                "layer": "(update)",
                "forward": 0,
                "backward": 0,
                "update": rest,
                "cycles": rest,
                "count": 1,
            },
        ],
        "expensive": [
            {
                "name": EVIL,
                "opcode": "fusion",
                "operation": "conv",
                "layer": "stem",
                "part": "forward",
                "cycles": 100,
                "result": "(" + "f32[64], " * 30 + ")",
            }
        ],
        "collectives": [
            {
                "kind": "all-reduce",
                "axes": "data",
                "group_size": 8,
                "count": 99,
                "payload_bytes": 10**8,
                "sent_bytes": 2 * 10**8,
                "seconds": None,
            }
        ],
        "compiler": {"seconds": 100.0, "was_cached": False, "jax": "0.12.0"},
    }


def record_of(plans, **changes):
    return {
        "command": "cnn-jax plan resnet50",
        "environment": {"Date": "2026"},
        "model": "resnet50",
        "plans": plans,
        "best": 0,
        "frontier": [0],
        "left_out": [],
        "conclusions": ["Best: plan 1"],
        **changes,
    }


def test_layers_sum_to_the_total_by_any_depth():
    plan = plan_record()
    for depth in (1, None):
        *rows, total = plan_page.layer_table(plan, depth=depth).rows
        assert total["cycles"] == plan["cycles"] == sum(row["cycles"] for row in rows)
        assert total["share"] == pytest.approx(1)
    assert plan_page.layer_table(plan).rows[0]["layer"] == "stage1_block1"


def test_says_whether_it_fits():
    assert plan_page.verdict(plan_record()) == "Fits: 8.00 of 16.00 GiB a device."
    refused = plan_record(fits=False, total=17 * 2**30)
    assert "needs 17.00 GiB of 16.00 GiB" in plan_page.verdict(refused)


def test_what_is_unknown_is_shown_as_missing():
    plan = plan_record()
    plan["cycles"], plan["speed"] = None, dict.fromkeys(plan["speed"])
    texts = {row[0]: row[1] for row in plan_page.step_table(plan).texts()}
    assert texts["cycles"] == texts["speed"] == "-"
    assert texts["FLOPs"] == "5"


def test_rows_of_a_step_have_names_of_their_own():
    rows = plan_page.step_table(plan_record()).rows
    assert len({row["name"] for row in rows}) == len(rows)


def test_instructions_without_an_estimate_are_said():
    plan = plan_record()
    assert "no estimate" not in str(plan_page.step_table(plan).notes)
    plan["without_estimate"] = 3
    assert "3 instructions have no estimate" in str(plan_page.step_table(plan).notes)


def test_devices_may_share_an_image():
    plan = plan_record(batch=4)
    assert plan["devices"]["images"] == 0
    record = record_of([plan, plan_record(batch=1024)])
    rows = plan_page.candidate_table(record).rows
    assert rows[0]["cycles"] == 2 * 3_000_000
    assert "batch 4 (0.5 a device)" in plan_page.render(record)
    assert plan_page.images(plan_record(8 * 1024)) == "1,024"


def test_the_page_shows_the_plans_and_escapes_names():
    plans = [
        plan_record(),
        plan_record(256, cycles=9_000_000, total=2**33 * 2),
        plan_record(512, fits=False, cycles=None, total=None),
    ]
    plans[2] |= {"flops": None, "layers": [], "expensive": [], "collectives": []}
    text = plan_page.render(record_of(plans, left_out=["Left out: x"]))
    page = Page(text)
    shown = " ".join(page.texts)
    for words in ("Plan of resnet50", "cnn-jax plan resnet50", "Left out: x", "Best:"):
        assert words in shown
    assert "script" not in page.tags
    assert "svg" in page.tags


def test_without_matplotlib_the_page_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    text = plan_page.render(record_of([plan_record(), plan_record(256)]))
    assert "pip install" in text


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_in_a_browser(width, tmp_path):
    pages = {"plan": tmp_path / "plan.html"}
    text = plan_page.render(record_of([plan_record(), plan_record(256)]))
    pages["plan"].write_text(text, "utf-8")
    assert_pages_fit(pages, width, tmp_path, parts="main *")
