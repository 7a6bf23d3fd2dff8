"""The rule that weights heads by a person's comparisons: formula, regret bound, information."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from micro_rm.serve.online import simulation
from micro_rm.serve.online.simulation import SimulatedPeople, simulate_population
from micro_rm.serve.online.tastes import tastes
from micro_rm.serve.online.weights import HedgeRule, Person

FIRST_MIXTURE_OF_4 = [0.000535, 0.181783, 0.035436, 0.782246]


def person_with(losses_K: list[float]) -> Person:
    """A person with the given head losses and mixtures too bad to matter."""
    person = Person.new(len(losses_K))
    losses_C = np.full(len(person.losses_C), 2e6)
    losses_C[: len(losses_K)] = losses_K
    return Person(1, person.tastes_CxK, losses_C, 0.0)


def test_over_the_heads_alone_the_rule_is_the_papers_hedge() -> None:
    router_K = np.array([0.2, 0.7, 0.1])
    expected = router_K**0.5 * np.exp(-2.0 * np.array([1.0, 3.0, 2.0]))
    rule = HedgeRule(eta=2.0, rho=0.5, single=1.0)
    found = np.exp(rule.log_weights(np.log(router_K), person_with([1.0, 3.0, 2.0])))
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-12)


def test_belief_and_weights_are_the_posterior_over_heads_and_mixtures() -> None:
    """Compared with the formula in probabilities instead of logarithms."""
    rng, rule = np.random.default_rng(3), HedgeRule(eta=0.7, rho=1.5, single=0.3)
    tastes_CxK = tastes(3)
    margin_NxK = rng.normal(0, 2, (6, 3))
    router_K = np.array([0.5, 0.2, 0.3])
    person = Person.new(3)
    posterior_C = np.full(len(tastes_CxK), 0.7 / (len(tastes_CxK) - 3))
    posterior_C[:3] = 0.1
    assert posterior_C.sum() == pytest.approx(1)
    posterior_C *= (tastes_CxK @ router_K) ** 1.5
    for margin_K in margin_NxK:
        belief_C = posterior_C / posterior_C.sum()
        win_C = 1 / (1 + np.exp(-tastes_CxK @ margin_K))
        served = rule.served_loss(person, margin_K, np.log(router_K))
        assert served == pytest.approx(-np.log(belief_C @ win_C))
        person = person.after(margin_K, served)
        posterior_C *= win_C**0.7
        expected_K = posterior_C @ tastes_CxK / posterior_C.sum()
        found_K = np.exp(rule.log_weights(np.log(router_K), person))
        np.testing.assert_allclose(found_K, expected_K, rtol=1e-9)
    lost_C = -np.log(1 / (1 + np.exp(-margin_NxK @ tastes_CxK.T))).sum(axis=0)
    assert person.regret == pytest.approx(person.served - lost_C[:3].min())
    assert person.regret_mixture == pytest.approx(person.served - lost_C.min())
    assert person.regret_mixture > person.regret + 0.01
    both_NxK = np.exp(rule.log_weights(np.log([[0.5, 0.2, 0.3], [0.1, 0.1, 0.8]]), person))
    np.testing.assert_allclose(both_NxK[0], found_K, rtol=1e-12)
    assert np.abs(both_NxK[1] - found_K).max() > 0.05


def test_a_person_without_comparisons_gets_the_routers_weights() -> None:
    router_K = np.log([0.2, 0.7, 0.1])
    assert HedgeRule(rho=0.3).log_weights(router_K, Person.new(3)) is router_K


@pytest.mark.parametrize("single", [0.5, 1.0])
def test_weights_are_finite_for_huge_losses_and_heads_of_weight_zero(single: float) -> None:
    with np.errstate(divide="ignore"):
        log_router_K = np.log([0.5, 0.5, 0.0])
    person, alone = person_with([1e6, 1e6 + 1, 0.0]), person_with([5.0, 5.0, 0.0])
    weights_K = np.exp(HedgeRule(single=single).log_weights(log_router_K, person))
    np.testing.assert_allclose(weights_K, [1 / (1 + np.exp(-1)), 1 / (1 + np.e), 0.0], atol=1e-12)
    alone_K = np.exp(HedgeRule(rho=0.0, single=single).log_weights(log_router_K, alone))
    assert alone_K[2] == pytest.approx(1 / (1 + 2 * np.exp(-5)))


def test_tastes_favour_no_head_and_are_always_the_same() -> None:
    weights_CxK = tastes(4)
    np.testing.assert_array_equal(weights_CxK[:4], np.eye(4))
    np.testing.assert_allclose(weights_CxK.sum(axis=1), 1.0)
    np.testing.assert_allclose(weights_CxK.mean(axis=0), 0.25)
    # Stored losses refer to these candidates: other draws would change everybody's weights.
    assert weights_CxK[4].round(6).tolist() == pytest.approx(FIRST_MIXTURE_OF_4)


@pytest.mark.parametrize(("heads", "single"), [(2, 1.0), (7, 1.0), (7, 0.5), (3, 0.1)])
def test_regret_stays_below_its_bound_whatever_people_say(heads: int, single: float) -> None:
    rng, rule = np.random.default_rng(heads), HedgeRule(rho=0.0, single=single)
    for scale in (0.1, 2.0, 30.0):
        person = Person.new(heads)
        for margin_K in rng.normal(0, scale, (200, heads)):
            served = rule.served_loss(person, margin_K, np.zeros(heads))
            person = person.after(margin_K, served)
        assert person.regret <= np.log(heads / single) + 1e-9
        assert person.regret <= person.regret_mixture


def test_weights_in_hindsight_follow_the_gradients_of_both_losses() -> None:
    rng = np.random.default_rng(0)
    margin_NxK, weights_K = rng.normal(size=(7, 3)), np.array([0.2, 0.5, 0.3])

    def mixture(weights_K: np.ndarray) -> float:
        return float(-np.log((1 / (1 + np.exp(-margin_NxK))) @ weights_K).mean())

    def reward(weights_K: np.ndarray) -> float:
        return float(np.log1p(np.exp(-margin_NxK @ weights_K)).mean())

    for loss, gradient in (
        (mixture, simulation._mixture_gradient),
        (reward, simulation._reward_gradient),
    ):
        steps_KxK = 1e-6 * np.eye(3)
        numeric_K = [(loss(weights_K + d) - loss(weights_K - d)) / 2e-6 for d in steps_KxK]
        np.testing.assert_allclose(gradient(margin_NxK, weights_K), numeric_K, rtol=1e-6)


def test_twenty_comparisons_come_close_to_the_best_fixed_weights() -> None:
    """Each person prefers by one of ten heads; the gap over 100 people is 0.005."""
    result = simulate_population(SimulatedPeople(people=12, test=300, seed=1), HedgeRule())
    assert result.gap < 0.02
    assert result.online > result.router + 0.15
    few = simulate_population(
        SimulatedPeople(people=12, test=300, seed=1, comparisons=2), HedgeRule()
    )
    assert few.gap > 0.02, "two comparisons are not enough: the test can fail"


@pytest.mark.long
def test_mixtures_help_people_with_mixed_tastes_and_active_selection_helps_more() -> None:
    population = SimulatedPeople(people=10, heads=8, test=300, concentration=0.3)
    alone = simulate_population(population, HedgeRule(single=1.0))
    mixed = simulate_population(population, HedgeRule())
    asked = simulate_population(replace(population, pool=50), HedgeRule())
    assert alone.gap > mixed.gap + 0.02 > asked.gap + 0.04
    assert mixed.hindsight >= mixed.informed > mixed.online - 0.005


def test_information_is_the_mutual_information_of_answer_and_taste() -> None:
    rule, person = HedgeRule(single=1.0), Person.new(2)
    sure, same, unsure = (50.0, -50.0), (3.0, 3.0), (1.0, -1.0)
    found = rule.information(person, np.array([sure, same, unsure]))
    p = 1 / (1 + np.exp(-1.0))
    by_hand = np.log(2) + p * np.log(p) + (1 - p) * np.log(1 - p)
    np.testing.assert_allclose(found, [np.log(2), 0.0, by_hand], atol=1e-12)
    known = person_with([0.0, 100.0])
    assert rule.information(known, np.array([sure]))[0] < 1e-9, "nothing is left to learn"
