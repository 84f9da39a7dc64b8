"""What a study trains: amounts of labels, cells, and as many tries for either loss."""

import pytest

from kd_sleep.config import PRESETS, StudyConfig
from kd_sleep.errors import ConfigError
from kd_sleep.evaluation.scores import DISTILLED, HARD_LABELS
from kd_sleep.study import cells as plan

GRID = plan.Grid([0.0, 0.3], [2.0, 4.0], [0.3, 1.0], [0.0, 0.1])
CPU = PRESETS["cpu"]


def test_amounts_go_from_all_to_none_and_none_comes_twice():
    found = plan.amounts(168, 6, [17, 100, 6, 500])
    assert found == {"all": 168, "100 nights": 100, "17 nights": 17, "a handful": 6, "none": 0}
    assert plan.amounts(6, 6, []) == {"all": 6, "none": 0}


def test_every_student_once_and_none_on_no_labels():
    cells = plan.cells(168, StudyConfig(), [17, 100])
    assert len(set(cells)) == len(cells) == 2 * (4 * 2 + 1)
    assert all(cell.loss == DISTILLED for cell in cells if cell.labelled_nights == 0)
    assert {cell.loss for cell in cells[:2]} == {DISTILLED, HARD_LABELS}
    assert all(plan.is_main(cell, StudyConfig()) for cell in cells[:2])
    assert len({cell.folder for cell in cells}) == len(cells)


@pytest.mark.parametrize("loss", [DISTILLED, HARD_LABELS])
def test_either_loss_gets_as_many_tries(loss):
    tries = plan.Cell("context", "a handful", 6, loss).tries(GRID, CPU)
    assert sum(len(losses) for _, losses in tries) == 4
    for _, losses in tries:
        assert all(each.labelled_nights == 6 for each in losses)
        assert all((each.alpha == 1.0) == (loss == HARD_LABELS) for each in losses)


def test_the_baseline_tunes_what_it_has():
    tries = plan.Cell("context", "all", 168, HARD_LABELS).tries(GRID, CPU)
    rate = CPU.student_train.learning_rate
    assert [train.learning_rate for train, _ in tries] == [0.3 * rate, rate]
    assert [each.label_smoothing for each in tries[0][1]] == [0.0, 0.1]


def test_without_labels_alpha_has_no_say():
    [(_, losses)] = plan.Cell("context", "none", 0, DISTILLED).tries(GRID, CPU)
    assert {each.alpha for each in losses} == {0.0}
    assert [each.temperature for each in losses] == [2.0, 4.0]


def test_the_shapes_are_the_article_s_and_one_that_sees_neighbours():
    assert plan.Cell("single_window", "all", 9, DISTILLED).model(CPU).context_windows == 0
    assert plan.Cell("context", "all", 9, DISTILLED).model(CPU) == CPU.student


@pytest.mark.parametrize(
    ("axes", "word"),
    [
        (([], [4.0], [1.0], [0.0]), "--alphas"),
        (([0.3, 1.0], [4.0], [1.0], [0.0]), "always trained"),
        (([0.3], [4.0, 4.0], [1.0], [0.0]), "--temperatures"),
        (([0.3], [4.0], [0.0], [0.0]), "--rates"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(axes, word):
    with pytest.raises(ConfigError, match=word):
        plan.Grid(*axes)
