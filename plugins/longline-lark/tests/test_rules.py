"""The grammar of rules, and when they fire."""

import math
import re

import pytest

from longline_lark.rules import Limit, NotFinite, RuleError, Stalled, parse
from longline_lark.words import Words


def fired(rule: str, events: list[dict]) -> list[int]:
    """The events, counted from 0, at which a rule fires."""
    made = parse(rule)
    return [index for index, logs in enumerate(events) if made.see(logs)]


def losses(*values: float, name: str = "loss") -> list[dict]:
    return [{name: value} for value in values]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("loss > 10", Limit("loss > 10", "loss", ">", 10.0)),
        ("loss>1e1", Limit("loss>1e1", "loss", ">", 10.0)),
        ("  grad_norm >= .5 for 3 logs ", Limit("grad_norm >= .5 for 3 logs", "grad_norm", ">=", 0.5, 3)),
        ("rewards/margins < -0.1", Limit("rewards/margins < -0.1", "rewards/margins", "<", -0.1)),
        ('"profiling/Time taken: A.b" <= 2', Limit('"profiling/Time taken: A.b" <= 2', "profiling/Time taken: A.b", "<=", 2.0)),
        ("nan", NotFinite("nan", None)),
        ("NaN in grad_norm", NotFinite("NaN in grad_norm", "grad_norm")),
    ],
)
def test_what_a_rule_means(rule, expected):
    assert parse(rule) == expected


@pytest.mark.parametrize(
    ("rule", "metric", "count", "by", "lower"),
    [
        ("no improvement in eval_loss for 5 evaluations", "eval_loss", 5, 0.0, True),
        ("No Improvement in eval_loss for 1 evaluation by 0.01", "eval_loss", 1, 0.01, True),
        ("no improvement in eval_accuracy for 2 logs", "eval_accuracy", 2, 0.0, False),
        ("no improvement in rewards/chosen for 2 evaluations, lower is better", "rewards/chosen", 2, 0.0, True),
        ("no improvement in loss_margin for 2 evaluations by 1 , higher is better", "loss_margin", 2, 1.0, False),
    ],
)
def test_what_a_rule_about_improvement_means(rule, metric, count, by, lower):
    made = parse(rule)
    assert isinstance(made, Stalled)
    assert (made.metric, made.count, made.by, made.lower) == (metric, count, by, lower)


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("loss >> 10", 'expected one of > >= < <= at character 6, got ">>"'),
        ("loss = 10", 'expected one of > >= < <= at character 6, got "="'),
        ("loss", "expected one of > >= < <= at character 5, the rule ends there"),
        ("", "expected the name of a metric at character 1, the rule ends there"),
        ("> 10", 'expected the name of a metric at character 1, got ">"'),
        ("loss > ten", 'expected a number at character 8, got "ten"'),
        ("loss > 10 20", 'expected the end of the rule at character 11, got "20"'),
        ("loss > 1.2.3", 'expected a number at character 8, got "1"'),
        ("loss > 10 for 3", "expected `evaluations` or `logs` at character 16, the rule ends there"),
        ("loss > 10 for 3 steps", 'expected `evaluations` or `logs` at character 17, got "steps"'),
        ("loss > 10 for 0 logs", 'expected a whole number of at least 1 at character 15, got "0"'),
        ("no improvment in eval_loss for 5 evaluations", "character 4, got \"improvment\" (did you mean 'improvement'?)"),
        ("no improvement in eval_loss for 5 evalutions", "(did you mean 'evaluations'?)"),
        ("no improvement in eval_loss", "expected `for` at character 28, the rule ends there"),
        ("no improvement in eval_loss for 2.5 logs", 'expected a whole number of at least 1 at character 33, got "2.5"'),
        ("no improvement in a for 2 logs by -1", 'expected a number of at least 0 at character 35, got "-1"'),
        ("no improvement in a for 2 logs, better", "expected `lower is better` or `higher is better` at character 33"),
        ("nan in", "expected the name of a metric at character 7, the rule ends there"),
        ("nan > 3", 'expected the end of the rule at character 5, got ">"'),
    ],
)
def test_a_rule_that_cannot_be_read_names_the_character(rule, problem):
    with pytest.raises(RuleError, match=re.escape(problem)) as caught:
        parse(rule)
    assert str(caught.value).startswith(f'"{rule}": ')
    assert "rules read `loss > 10`" in str(caught.value)


def test_a_limit_fires_once_for_each_crossing():
    assert fired("loss > 10", losses(9, 11, 12, 10, 11, 3)) == [1, 4]
    assert fired("loss >= 10", losses(9, 10)) == [1]
    assert fired("eval_accuracy < 0.5", losses(0.6, 0.4, 0.3, name="eval_accuracy")) == [1]


def test_a_limit_with_a_count_waits_for_events_in_a_row():
    assert fired("loss > 10 for 3 logs", losses(11, 11, 9, 11, 11, 11, 11)) == [5]


def test_events_without_the_metric_change_nothing():
    assert fired("loss > 10 for 2 logs", [{"loss": 11}, {"eval_loss": 1}, {"loss": 11}]) == [2]


def test_infinity_passes_a_limit_and_nan_does_not():
    assert fired("loss > 10", losses(math.nan, math.inf)) == [1]


def test_no_improvement_counts_evaluations_since_the_best():
    events = losses(3, 2, 2.1, 2.0, 2.2, 2.3, 1.9, 2, 2, 2, name="eval_loss")
    assert fired("no improvement in eval_loss for 3 evaluations", events) == [4, 9]


def test_a_small_gain_is_no_improvement():
    rule = "no improvement in eval_loss for 2 evaluations by 0.1"
    assert fired(rule, losses(2, 1.95, 1.93, name="eval_loss")) == [2]
    assert fired(rule, losses(2, 1.85, 1.7, name="eval_loss")) == []


def test_higher_may_be_better():
    events = losses(0.5, 0.6, 0.55, 0.6, name="eval_accuracy")
    assert fired("no improvement in eval_accuracy for 2 evaluations", events) == [3]


def test_nan_is_no_improvement_also_at_the_beginning():
    rule = "no improvement in eval_loss for 2 evaluations"
    assert fired(rule, losses(math.nan, math.nan, 3, name="eval_loss")) == [1]


def test_nan_fires_once_for_each_metric_until_it_is_a_number_again():
    events = [{"loss": 1.0}, {"loss": math.nan}, {"loss": math.nan, "grad_norm": math.inf}, {"loss": 2.0}, {"loss": math.nan}]
    assert fired("nan", events) == [1, 2, 4]
    assert fired("nan in grad_norm", events) == [2]


def test_texts_and_truth_values_are_no_numbers():
    assert fired("loss > 0", [{"loss": "1e3"}, {"loss": True}]) == []


def test_what_is_told():
    finding = parse("no improvement in eval_loss for 1 evaluation")
    assert finding.see({"eval_loss": 2.0}) is None
    told = finding.see({"eval_loss": 2.5})
    assert told.values == {"metric": "eval_loss", "value": 2.5, "best": 2.0, "count": 1}


def test_infinity_is_told_as_infinity_beside_nan():
    told = parse("nan").see({"loss": math.inf, "a": math.nan, "b": math.nan, "c": -math.inf, "d": 1.0})
    assert told.said(Words("en")) == "loss is infinity; a, b is NaN; c is -infinity"
