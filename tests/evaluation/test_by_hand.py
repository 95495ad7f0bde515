"""An evaluation of four tasks and three seeds worked out by hand, number by number, from the runs to the page.

Adam has another best rate by each measure, and one of its three seeds diverged. All expected numbers are written down,
or computed here in float64 by other formulas than the library's.
"""

import csv
import itertools
import json

import numpy as np
import pytest

from lopt.evaluation.folder import SCORES, SUMMARY, write_results
from lopt.evaluation.measures import MEASURES
from lopt.evaluation.page import render
from lopt.evaluation.results import Curves, Entry, TaskResult
from lopt.evaluation.scores import score_task
from lopt.evaluation.summary import summarize
from lopt.evaluation.table import table
from tests.evaluation.test_page import Page

T, LONG_T = 20, 80  # the final loss is that of the last step
RATES = (0.001, 0.01, 0.1)
LEARNED = {  # final loss of each seed; the loss is constant
    "even": (0.25, 0.5, 1.0),
    "slow": (1.0, 1.1, 1.25),
    "near": (0.01, 0.5, 0.625),
    "lost": (2.0, 2.5, 50.0),
}
# Adam's final losses at its two evaluation seeds that live are 0.4 and 0.5, and the third is infinite: the median is
# 0.5. A score is 0.5 over the loss, at most 10.
SCORES_OF_LEARNED = {
    "even": (2.0, 1.0, 0.5),
    "slow": (0.5, 0.5 / 1.1, 0.4),
    "near": (10.0, 1.0, 0.8),
    "lost": (0.25, 0.2, 0.01),
}


def steps(*pieces):
    """A curve from (number of steps, loss)."""
    return np.concatenate([np.full(number, loss) for number, loss in pieces])


def runs(*curves, accuracy=0.9, valid=None):
    loss = np.array(curves, np.float32)
    moments = loss[..., loss.shape[-1] * np.arange(1, 21) // 20 - 1]
    valid = moments if valid is None else np.array(valid, np.float32)[:, None] * np.r_[np.ones(11), 0.5, np.ones(8)]
    return Curves(loss, valid, np.full(loss.shape[:-1], accuracy, np.float32))


def untuned(label, kind, curves: Curves):
    none = Curves(*(x[None][:0] for x in curves))
    best, chosen = dict.fromkeys(MEASURES, 0), dict.fromkeys(MEASURES, curves)
    turns = np.array([[3e-3, 1e-3], [8e-3, 2e-3], [2e-3, 1e-3]])
    return Entry(label, kind, np.array([np.nan]), np.array([""]), none, best, chosen, None, 2e6, turns)


# At 0.1 down at once to a plateau at 1; at 0.01 it waits for half of the steps, and ends at a half.
TUNING = runs(*[[steps((T, x))] * 3 for x in (8,)], [steps((10, 4), (10, 0.5))] * 3, [steps((T, 1))] * 3)
FINAL = runs(
    steps((10, 4), (10, 0.4)),
    steps((10, 4), (10, 0.5)),
    steps((5, 4), (15, np.nan)),
    valid=(0.6, 0.7, 0.8),  # what diverged may have a finite loss on another batch
)
MEAN = runs(steps((T, 1.0)), steps((T, 1.2)), steps((T, 1.4)))
LONG = runs(
    steps((10, 4), (30, 0.4), (40, 0.1)), steps((10, 4), (30, 0.5), (40, 0.2)), steps((5, 4), (LONG_T - 5, np.nan))
)


def task(losses):
    adam_best = {"mean_loss": 2, "final_loss": 1, "valid_loss": 1}
    chosen = {"mean_loss": MEAN, "final_loss": FINAL, "valid_loss": FINAL}
    itself = np.array([[1e-3, 1e-3]])
    tenth, flat = [steps((T, x)) for x in (5, 6, 7)], [steps((T, x)) for x in (9, 9, 9)]
    entries = {
        "learned": untuned("star", "learned", runs(*(steps((T, x)) for x in losses))),
        "untrained": untuned("star, untrained", "untuned", runs(*flat, accuracy=0.1)),
        "adam_default": untuned("Adam at 0.001", "untuned", runs(*tenth, accuracy=0.25)),
        "adam": Entry(
            "Adam", "constant", np.array(RATES), np.full(3, ""), TUNING, adam_best, chosen, LONG, 1e6, itself
        ),
    }
    return TaskResult(1234, T, np.arange(3), np.arange(3, 6), (), entries)


RESULTS = {name: task(losses) for name, losses in LEARNED.items()}
SCORED = {name: score_task(result) for name, result in RESULTS.items()}
CONTENT = summarize(RESULTS, SCORED, {"title": "by hand", "setting": {"num_seeds": 3, "split": "valid"}})


def average(curve, decay):
    """The bias-corrected average as what it is: a mean with the weights decay^(t - k); infinite from a NaN on."""
    curve = np.where(np.isfinite(curve), curve, np.inf)
    weights = [decay ** np.arange(t, -1.0, -1.0) for t in range(len(curve))]
    return np.array([np.inf if np.isinf(curve[: len(w)]).any() else w @ curve[: len(w)] / w.sum() for w in weights])


def median(curves, decay):
    return np.median([average(np.float64(curve), decay) for curve in curves], axis=0)


def first_step(reference, level):
    return next((t + 1 for t, x in enumerate(reference) if x <= level), None)


def speed_ups(losses):
    """Over the single run and over the envelope: the step at which Adam is where ours ends, over 20."""
    single = median(LONG.loss, 0.95)
    rates = [median(curves, 0.95) for curves in TUNING.loss]
    lowest = np.minimum(single, np.concatenate([np.min(rates, axis=0), np.full(LONG_T - T, np.inf)]))
    level = np.median(losses)
    return [4.0 if (step := first_step(x, level)) is None else step / T for x in (single, lowest)]


def test_adam_faces_each_measure_with_its_own_rate_and_a_lost_seed_is_infinite():
    for scores in SCORED.values():
        adam = scores.rows["adam"]
        assert (adam.rate_by_mean_loss, adam.rate_by_final_loss) == (0.1, 0.01)
        assert adam.mean_loss == pytest.approx((1.0 + 1.2 + 1.4) / 3)
        assert (adam.final_loss, adam.valid_loss, adam.diverged, adam.num_runs) == (np.inf, np.inf, 1, 3)
        assert adam.valid_accuracy == pytest.approx(0.9)
        assert (adam.flops_per_step, adam.step_time, adam.milliseconds_per_step) == (1e6, 1.0, 1.0)
        assert (adam.speed_up, adam.speed_up_envelope) == (0.0, 0.0)
        np.testing.assert_allclose(scores.run_scores["adam"], [1.25, 1.0, 0.0], rtol=1e-6)
        assert set(scores.warnings) == {
            "Adam at 0.01 diverged on 1 of 3 seeds: its losses count as infinite",
            "the best rate of Adam by mean loss, 0.1, is at the edge of the grid",
        }


@pytest.mark.parametrize("name", LEARNED)
def test_scores_ratios_and_speed_ups(name):
    losses, scores = LEARNED[name], SCORED[name]
    row = scores.rows["learned"]
    np.testing.assert_allclose(scores.run_scores["learned"], SCORES_OF_LEARNED[name], rtol=1e-6)
    assert row.score == pytest.approx(sum(SCORES_OF_LEARNED[name]) / 3)
    assert row.final_loss == row.mean_loss == row.valid_loss == pytest.approx(sum(losses) / 3)
    assert [row.speed_up, row.speed_up_envelope] == pytest.approx(speed_ups(losses))
    ours = sum(losses) / 3
    wanted = {"adam_default": ours / 6, "untrained": ours / 9, "best_adam_by_mean_loss": ours / 1.2}
    assert scores.ratios == pytest.approx({**wanted, "best_adam_by_final_loss": 0.0})


def test_the_two_references_differ():
    """A plateau at 1 is reached at once by one rate; the run that ends lowest is there only after its wait."""
    assert speed_ups(LEARNED["slow"])[1] == 0.05
    assert speed_ups(LEARNED["slow"])[0] > 1
    assert speed_ups(LEARNED["even"]) == [speed_ups(LEARNED["even"])[0]] * 2  # nobody is at a half within the horizon


def quartile_mean(scores):
    """From twelve runs, the three lowest and the three highest are left out."""
    return np.mean(sorted(itertools.chain.from_iterable(scores))[3:9])


def test_over_all_tasks():
    ours, *others = CONTENT["aggregate"]
    table = list(SCORES_OF_LEARNED.values())
    assert ours["optimizer"] == "learned"
    # In order: .01 .2 .25 | .4 .4545 .5 .5 .8 1 | 1 2 10
    assert ours["iqm"] == pytest.approx((0.4 + 0.5 / 1.1 + 0.5 + 0.5 + 0.8 + 1.0) / 6, rel=1e-6)
    assert (ours["worst"], ours["worst_task"]) == (pytest.approx((0.25 + 0.2 + 0.01) / 3, rel=1e-6), "lost")
    resamples = np.random.default_rng(7).integers(3, size=(20_000, 4, 3))
    drawn = np.sort(np.take_along_axis(np.array(table)[None], resamples, axis=2).reshape(-1, 12), axis=1)[:, 3:9]
    wanted = np.percentile(drawn.mean(1), [2.5, 97.5])
    assert ours["iqm_low"] < ours["iqm"] < ours["iqm_high"]
    np.testing.assert_allclose([ours["iqm_low"], ours["iqm_high"]], wanted, rtol=0.05)
    assert [ours["improvement"], ours["improvement_low"], ours["improvement_high"]] == [None] * 3

    adam = next(row for row in others if row["optimizer"] == "adam")
    assert adam["iqm"] == pytest.approx(quartile_mean([(1.25, 1.0, 0.0)] * 4), rel=1e-6)
    shares = [np.mean([(x > y) + (x == y) / 2 for x in scores for y in (1.25, 1.0, 0.0)]) for scores in table]
    assert adam["improvement"] == pytest.approx(np.mean(shares), rel=1e-6)
    assert 0 < adam["improvement_low"] < adam["improvement"] < adam["improvement_high"] < 1
    assert (adam["diverged"], adam["num_runs"]) == (4, 12)
    single, envelope = np.sort([speed_ups(losses) for losses in LEARNED.values()], axis=0)[1:3].mean(0)
    assert ours["speed_up_iqm"] == pytest.approx(single)
    assert ours["speed_up_envelope_iqm"] == pytest.approx(envelope)
    profile = dict(zip(CONTENT["profiles"]["threshold"], CONTENT["profiles"]["learned"], strict=True))
    for threshold, share in profile.items():
        above = [np.mean([score > threshold for score in scores]) for scores in table]
        assert share == pytest.approx(np.mean(above))
    assert CONTENT["caution"] == "3 seeds: intervals and probabilities mean little below 5 seeds."
    low, high = ours["iqm_low"], ours["iqm_high"]
    assert CONTENT["headline"] == (
        "After 20 steps star has a lower final loss than tuned Adam on 4 of 4 tasks: score 0.61 (95 % interval "
        f"{low:.2f} to {high:.2f}), where tuned Adam has 1. By score, its worst task is lost, with 0.15. Speed-up over "
        f"the best single Adam {single:.2f}, over its envelope {envelope:.2f}. {CONTENT['caution']}"
    )


def test_curves_are_medians_with_their_range():
    curves = CONTENT["tasks"][0]["curves"]
    assert curves["learned"]["step"] == list(range(1, 21))
    for part, level in (("low", 0.25), ("median", 0.5), ("high", 1.0)):
        assert curves["learned"][part] == pytest.approx([level] * T)
    smooth = np.array([average(np.float64(curve), 0.9) for curve in FINAL.loss])
    middle = np.median(smooth, axis=0)
    assert curves["adam"]["median"] == pytest.approx(middle, rel=1e-4)
    assert curves["adam"]["low"] == pytest.approx(smooth.min(0), rel=1e-4)
    assert curves["adam"]["high"] == [4.0] * 5 + [None] * 15


@pytest.fixture
def folder(tmp_path):
    write_results(tmp_path, RESULTS, CONTENT, configuration={"horizon": T}, pictures={})
    return tmp_path


def test_the_csv_has_every_run(folder):
    rows = list(csv.DictReader((folder / SCORES).read_text().splitlines()))
    # Adam's three rates on tuning seeds and its two best ones; three entries of one run for each seed.
    assert len(rows) == 4 * (3 * (3 + 2) + 3 * 3)
    found = {
        (row["task"], row["optimizer"], row["purpose"], row["learning_rate"], row["seed"]): (
            *(float(row[name]) for name in ("mean_loss", "final_loss", "valid_loss", "valid_accuracy")),
        )
        for row in rows
    }
    for name, losses in LEARNED.items():
        for seed, loss in enumerate(losses):
            wanted = (loss, loss, loss, 0.9)
            assert found[name, "learned", "evaluation", "", str(seed)] == pytest.approx(wanted, rel=1e-6)
        adam = (name, "adam")
        assert found[*adam, "tuning", "0.01", "3"] == pytest.approx((2.25, 0.5, 0.5, 0.9), rel=1e-6)
        assert found[*adam, "tuning", "0.1", "5"] == pytest.approx((1, 1, 1, 0.9), rel=1e-6)
        assert found[*adam, "evaluation", "0.01", "0"] == pytest.approx((2.2, 0.4, 0.6, 0.9), rel=1e-6)
        assert found[*adam, "evaluation", "0.01", "2"][:2] == (np.inf, np.inf)
        assert found[*adam, "evaluation", "0.1", "1"] == pytest.approx((1.2, 1.2, 1.2, 0.9), rel=1e-6)


def test_the_summary_is_what_was_worked_out(folder):
    content = json.loads((folder / SUMMARY).read_text())
    assert content["aggregate"] == CONTENT["aggregate"]
    learned, _, default, adam = content["tasks"][2]["rows"]
    assert learned["score"] == pytest.approx((10 + 1 + 0.8) / 3)
    assert (adam["final_loss"], adam["valid_loss"], adam["rate_by_mean_loss"]) == ("inf", "inf", 0.1)
    assert default["score"] == pytest.approx((0.5 / 5 + 0.5 / 6 + 0.5 / 7) / 3)
    assert content["failures"] == []  # where a seed of Adam's is infinite, nothing is worse


def test_the_console_says_it():
    lines = table("near", RESULTS["near"], SCORED["near"]).splitlines()
    assert lines[0] == "near: 1,234 parameters, 20 steps, mean of 3 seeds"
    speed = f"{speed_ups(LEARNED['near'])[0]:.3g}"
    # Rate, mean, final, valid and lowest valid loss with its step, accuracy, speed-up, diverged, range of the step's
    # time over Adam's, score; there are no ratios without Adam on a cosine schedule.
    assert lines[2].split() == [
        "star",
        "-",
        "0.3783",
        "0.3783",
        "0.3783",
        "0.3783",
        "(1)",
        "90.0%",
        speed,
        "0/3",
        *("2", "to", "4"),
        "3.93",
        *("-", "-"),
    ]
    ends = ["25.0%", "0.05", "0/3", "2", "to", "4", "0.0849", "-", "-"]
    assert lines[4].split()[-15:] == ["-", "6", "6", "6", "6", "(1)", *ends]
    assert lines[5].split() == [
        "Adam",
        "0.1",
        "/",
        "0.01",
        "1.2",
        "inf",
        "inf",
        "inf",
        "(-)",
        "90.0%",
        "0",
        *("1/3", "1", "to", "1", "0.75", "-", "-"),
    ]
    assert "wanted" not in "\n".join(lines)


def test_the_page_says_it():
    page = Page(render(CONTENT))
    rows = page.rows["results"]
    single, envelope = (f"{x:.2f}" for x in speed_ups(LEARNED["even"]))
    share = "\N{NO-BREAK SPACE}%"
    assert rows[2] == [
        *(
            "star",
            "0.583",
            "0.583",
            "0.583",
            "0.583 at 1",
            f"90.0{share}",
            "1.17",
            single,
            envelope,
            "0 of 3",
            "2.00 M",
        )
    ]
    assert rows[5][:7] == ["Adam", "1.20", "diverged", "diverged", "diverged", f"90.0{share}", "0.750"]
    bold = {text for section, text in page.bold if section == "results"}
    assert {"0.583", "1.17", f"90.0{share}", "0.750"} <= bold  # where ours is lower, Adam has the best score
    assert not {"0.0556", "0.0849", "9.00", "diverged"} & bold
    overall = page.rows["overall"]
    low, high = (CONTENT["aggregate"][0][f"iqm_{end}"] for end in ("low", "high"))
    assert overall[1][1] == f"0.61 [{low:.2f}, {high:.2f}]"
    assert overall[1][3] == "0.15 lost"
    assert CONTENT["caution"] in page.texts
    # Three times Adam's in the middle of its turns, which were twice, three and four times.
    assert page.rows["cost"][1] == ["star", "2.00", "3.00 [2.00, 4.00]"]
    assert page.rows["cost"][-1] == ["Adam", "1.00", "1.00"]
