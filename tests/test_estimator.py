from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from strategies import EPSILON, moderate, splits

from crossgram import InputError, LeastSquares, WidthMismatchError

ROWS = 300
rng = np.random.default_rng(0)
X = rng.standard_normal((ROWS, 5)) + 2.0
Y = X @ rng.standard_normal((5, 3)) + 1.0 + 0.3 * rng.standard_normal((ROWS, 3))
WEIGHTS = rng.integers(0, 3, size=ROWS)
ROUNDING = ROWS * EPSILON * float(np.linalg.cond(X - X.mean(axis=0)) ** 2)


@pytest.mark.parametrize("given", ["", "ridge=1.0", "fit_intercept=False"])
def test_scikit_learn_accepts_the_estimator(given: str) -> None:
    # in a process of its own, because SciPy reads the switch that some checks need at its import
    program = (
        "from sklearn.utils.estimator_checks import check_estimator\n"
        "from crossgram import LeastSquares\n"
        f"checks = check_estimator(LeastSquares({given}), on_fail=None, on_skip=None)\n"
        "print(len(checks), [(c['check_name'], c['status'], c['exception'])\n"
        "    for c in checks if c['status'] != 'passed'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "SCIPY_ARRAY_API": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    count, failed = result.stdout.split(maxsplit=1)
    assert int(count) > 50
    assert failed == "[]\n"


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 3.0])
@pytest.mark.parametrize("targets", [Y, Y[:, :1], Y[:, 0]], ids=["three", "one", "flat"])
def test_shapes_and_values_are_those_of_scikit_learn(
    intercept: bool, ridge: float, targets: np.ndarray
) -> None:
    peer = Ridge(ridge, solver="svd") if ridge else LinearRegression()
    expected = peer.set_params(fit_intercept=intercept).fit(X, targets, sample_weight=WEIGHTS)
    model = LeastSquares(fit_intercept=intercept, ridge=ridge)
    model.fit(X, targets, sample_weight=WEIGHTS)
    assert model.coef_.shape == (*targets.shape[1:], X.shape[1])
    assert model.predict(X).shape == targets.shape
    np.testing.assert_allclose(np.ravel(model.coef_), np.ravel(expected.coef_), atol=1e-10)
    np.testing.assert_allclose(np.ravel(model.predict(X)), np.ravel(expected.predict(X)), atol=1e-9)
    np.testing.assert_array_equal(model.transform(X), model.predict(X).reshape(ROWS, -1))
    assert model.score(X, targets) == pytest.approx(r2_score(targets, model.predict(X)))
    if intercept:
        assert np.shape(model.intercept_) == targets.shape[1:]
        np.testing.assert_allclose(model.intercept_, expected.intercept_, atol=1e-10)
    else:
        assert not np.any(model.intercept_)


def test_a_sample_weight_is_a_number_of_repetitions() -> None:
    weighted = LeastSquares().fit(X, Y, sample_weight=WEIGHTS)
    repeated = LeastSquares().fit(np.repeat(X, WEIGHTS, axis=0), np.repeat(Y, WEIGHTS, axis=0))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=ROUNDING)
    np.testing.assert_allclose(weighted.intercept_, repeated.intercept_, atol=10 * ROUNDING)


@given(splits(ROWS).map(lambda runs: [run for run in runs if run.stop > run.start]))
@moderate
def test_partial_fits_on_blocks_equal_one_fit(runs: list[slice]) -> None:
    whole, streamed = LeastSquares().fit(X, Y, sample_weight=WEIGHTS), LeastSquares()
    for run in runs:
        streamed.partial_fit(X[run], Y[run], sample_weight=WEIGHTS[run])
    np.testing.assert_allclose(streamed.coef_, whole.coef_, atol=ROUNDING)
    np.testing.assert_allclose(streamed.intercept_, whole.intercept_, atol=10 * ROUNDING)
    assert streamed.certificate_.rows == np.count_nonzero(WEIGHTS)


def test_a_partial_fit_adds_to_a_fit_and_a_fit_starts_again() -> None:
    model = LeastSquares().fit(X[:100], Y[:100]).partial_fit(X[100:], Y[100:])
    assert model.moments_.rows == ROWS
    assert model.fit(X[:50], Y[:50]).moments_.rows == 50


def test_a_prediction_between_partial_fits_changes_nothing() -> None:
    watched, unwatched = LeastSquares(), LeastSquares()
    for run in (slice(100), slice(100, None)):
        unwatched.partial_fit(X[run], Y[run])
        watched.partial_fit(X[run], Y[run]).predict(X)
    np.testing.assert_array_equal(watched.coef_, unwatched.coef_)


def test_a_partial_fit_of_another_width_is_refused_and_forgotten() -> None:
    model = LeastSquares().fit(X, Y)
    before = model.coef_
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(X[:, :4], Y)
    with pytest.raises(WidthMismatchError):
        model.partial_fit(X, Y[:, :2])
    np.testing.assert_array_equal(model.coef_, before)


def test_integers_are_used_as_the_numbers_that_they_are() -> None:
    x, y = np.round(10 * X).astype(int), np.round(10 * Y).astype(int)
    integer, floating = LeastSquares().fit(x, y), LeastSquares().fit(x * 1.0, y * 1.0)
    np.testing.assert_array_equal(integer.coef_, floating.coef_)


def test_float32_rows_give_float32_predictions() -> None:
    model = LeastSquares().fit(X.astype(np.float32), Y.astype(np.float32))
    assert model.predict(X.astype(np.float32)).dtype == np.float32
    assert model.predict(X).dtype == np.float64


def test_the_map_is_fitted_with_a_certificate() -> None:
    model = LeastSquares(ridge=2.0).fit(X, Y)
    assert model.map_.weight.shape == (3, 5)
    assert model.certificate_.ridge == 2.0
    assert model.certificate_.r2 == pytest.approx(
        r2_score(Y, model.predict(X), multioutput="variance_weighted")
    )


def test_the_fast_precision_is_passed_on() -> None:
    fast = LeastSquares(precision="fast").fit(X, Y)
    assert fast.certificate_.precision == "fast"
    np.testing.assert_allclose(fast.coef_, LeastSquares().fit(X, Y).coef_, atol=1e-4)


def test_it_is_a_step_of_a_pipeline() -> None:
    pipeline = make_pipeline(StandardScaler(), LeastSquares()).fit(X, Y)
    np.testing.assert_allclose(
        pipeline.predict(X), LinearRegression().fit(X, Y).predict(X), atol=1e-9
    )
    mapped = make_pipeline(LeastSquares(), Ridge()).fit(X, Y)
    assert list(mapped[:1].get_feature_names_out()) == [f"leastsquares{k}" for k in range(3)]


def test_a_grid_search_finds_the_ridge_that_ridge_regression_finds() -> None:
    few, strengths = slice(12), [1e-3, 1.0, 30.0]
    found = GridSearchCV(LeastSquares(), {"ridge": strengths}, cv=3).fit(X[few], Y[few])
    expected = GridSearchCV(Ridge(solver="svd"), {"alpha": strengths}, cv=3).fit(X[few], Y[few])
    np.testing.assert_allclose(
        found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"], rtol=1e-8
    )


def test_a_clone_has_the_parameters_and_not_the_fit() -> None:
    model = LeastSquares(ridge=2.0, fit_intercept=False, precision="fast").fit(X, Y)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    with pytest.raises(NotFittedError):
        copy.predict(X)
    assert not hasattr(copy, "coef_")


def test_a_pickled_estimator_goes_on_where_it_was() -> None:
    model = pickle.loads(pickle.dumps(LeastSquares().fit(X[:100], Y[:100])))
    model.partial_fit(X[100:], Y[100:])
    np.testing.assert_allclose(model.coef_, LeastSquares().fit(X, Y).coef_, atol=ROUNDING)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"ridge": -1.0}, "ridge: -1.0 given"),
        ({"precision": "double"}, "precision: 'double' given"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(
    parameters: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        LeastSquares(**parameters).fit(X, Y)


@given(st.sampled_from([[1.0] * (ROWS - 1), [-1.0] * ROWS, [float("nan")] * ROWS, [0.0] * ROWS]))
@moderate
def test_weights_that_make_no_sense_are_refused(weights: list[float]) -> None:
    with pytest.raises(InputError, match="weight"):
        LeastSquares().fit(X, Y, sample_weight=weights)


def test_without_scikit_learn_the_message_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import crossgram\n"
        "try: crossgram.LeastSquares\n"
        "except crossgram.InputError as error: print(error)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "pip install 'crossgram[sklearn]'" in result.stdout


def test_a_block_that_is_refused_leaves_the_estimator_as_it_was() -> None:
    model = LeastSquares().partial_fit(X, Y[:, 0])
    before = model.predict(X)
    with pytest.raises(ValueError, match="y of 2 outputs given, earlier ones had 1"):
        model.partial_fit(X, Y[:, :2])
    np.testing.assert_array_equal(model.predict(X), before)
