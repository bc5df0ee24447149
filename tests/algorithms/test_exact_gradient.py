"""The exact gradient through the built-in model: every episode is written down, and two readings agree on it.

One reading is transformers' own model, an unpadded sequence at a time, in float64 but for its norms; the other is the
learner, with shared prompts, packed tails and float32. Bias and noise of the algorithms against it: test_bias.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from enumerated_looks import CHOICES, EMPTY, SCENES, TEMPERATURE, ReadLooks, flat_gradient, sampled_places
from gradient_bias import CONTESTANTS, summed, with_critic
from torch import Tensor

from visualzoom.agents.chat import open_renderer
from visualzoom.agents.model import VLModel
from visualzoom.agents.tiny_model import ASSETS
from visualzoom.algorithms.bias import MakeObjective, World, expected
from visualzoom.algorithms.objective import Objective
from visualzoom.algorithms.reinforce import Reinforce
from visualzoom.algorithms.terms import Terms
from visualzoom.training.learner import Learner, LearnerConfig
from visualzoom.training.learner_report import Tally
from visualzoom.training.loss_given import LossGiven
from visualzoom.training.pack import Batch

FAST = ("rloo", "gspo", "gigpo", "dtpo", "ppo, perfect critic")


def make_learner(read: ReadLooks, *, temperature: float = TEMPERATURE, is_free: bool = False) -> Learner:
    """Of the built-in model, with everything banned but the choices; a free one may say anything."""
    model = VLModel.open(ASSETS)
    banned_ids = set() if is_free else set(range(model.vocabulary_size)) - set(read.looks.choice_ids)
    config = LearnerConfig(temperature=temperature)
    return Learner(model, config, banned_ids=sorted(banned_ids), with_values=True)


def climbed(
    learner: Learner,
    read: ReadLooks,
    batch: Batch,
    objective: Objective,
    *,
    values_T: Tensor | None = None,
    reference_logprobs_T: Tensor | None = None,
) -> Tensor:
    """The direction that the learner would climb, by all parameters in the order of `read.names`, [P]."""
    given = LossGiven(
        batch=batch,
        credit=objective.credit(batch.credit_in(values_T, reference_logprobs_T)),
        objective=objective,
        values_T=values_T,
        reference_logprobs_T=reference_logprobs_T,
        old_logprobs_T=None,
    )
    learner.model.module.zero_grad()
    learner._accumulate(given, batch.stems, Tally())
    trained: dict[str, Tensor] = dict(learner.model.module.named_parameters())
    assert trained.keys() == set(read.names)
    slopes = [trained[name].grad for name in read.names]
    return -torch.cat([slope.flatten() for slope in slopes if slope is not None]).double()


def assert_same(read: ReadLooks, found_P: Tensor, expected_R: Tensor, *, rel: float) -> None:
    """Over all parameters, so that nothing lies outside of the space of the scores either."""
    expected_P = read.scores.parameters(expected_R)
    assert float((found_P - expected_P).norm()) <= rel * float(expected_P.norm())


def probabilities(read: ReadLooks) -> tuple[Tensor, Tensor]:
    """Log-probability of each token [T] and probability of each episode [E], with the graph of transformers' model."""
    logprobs_T = torch.stack(read.logprobs_SK)[read.looks.state_T, read.looks.choice_T]
    return logprobs_T, logprobs_T.view(-1, 2).sum(1).exp()


def whole(read: ReadLooks) -> Batch:
    """Every episode once."""
    return read.looks.packed(torch.stack(read.logprobs_SK))


def weighed(read: ReadLooks) -> Batch:
    """Every episode once, with rewards whose plain mean is the expected reward: S p R, and p has a sum of 2 tasks."""
    batch, world = whole(read), read.world
    rewards_E = len(batch.rewards_E) * world.probability_E * world.episodes.rewards_E / len(world.tasks)
    return replace(batch, rewards_E=rewards_E.float())


plain = summed(lambda: Reinforce(baseline="none"))


def test_the_episodes_are_real_and_all_there_are(read: ReadLooks) -> None:
    looks, world = read.looks, read.world
    assert len(looks.looks) == len(SCENES) * len(CHOICES) ** 2 == 18
    assert len(looks.states) == 2 + 2 * 3  # a prompt and three looks for each scene
    torch.testing.assert_close(world.probability_E.view(2, 9).sum(1), torch.ones(2, dtype=torch.float64))
    assert float(world.probability_E.min()) > 0.005  # nothing is so rare that an error in it would hide
    renderer = open_renderer(ASSETS)
    for look in looks.looks:
        images = look.ledger.images
        assert len(images) == (1 if look.left == EMPTY else 2)
        assert [look.ledger.turns[place] for place in sampled_places(look.ledger)] == [0, 1]
        said = renderer.reply_text(look.ledger.token_ids)
        assert f"[{look.left}, {', '.join(str(edge) for edge in look.scene.rest_px)}]" in said
        assert said.endswith(f"<answer>{look.answer}")
        assert ("is empty" in said) == (look.left == EMPTY)
    assert len({look.ledger.images[-1].key for look in looks.looks}) == 2 * 3  # two overviews, four different crops


def test_the_learner_reads_the_same_probabilities(read: ReadLooks) -> None:
    learner, batch = make_learner(read), whole(read)
    torch.testing.assert_close(learner.logprobs(batch), batch.behaviour_logprobs_T, atol=1e-5, rtol=1e-5)


def test_two_readings_agree_on_the_exact_gradient(read: ReadLooks) -> None:
    _, probability_E = probabilities(read)
    expected_reward = (probability_E * read.world.episodes.rewards_E).sum() / 2
    exact_P = flat_gradient(expected_reward, read.parameters)
    assert_same(read, exact_P, read.world.gradient(), rel=1e-6)  # its own scores add up to it
    assert_same(read, climbed(make_learner(read), read, weighed(read), plain()), read.world.gradient(), rel=1e-5)


@pytest.mark.parametrize(
    "defect", [lambda read: make_learner(read, temperature=1.0), lambda read: make_learner(read, is_free=True)]
)
def test_another_distribution_has_another_gradient(read: ReadLooks, defect: Callable[[ReadLooks], Learner]) -> None:
    """Planted: a learner that forgets the temperature, or which tokens are banned."""
    with pytest.raises(AssertionError):
        assert_same(read, climbed(defect(read), read, weighed(read), plain()), read.world.gradient(), rel=0.05)


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CONTESTANTS]
)
def test_the_learner_climbs_what_is_expected_of_each_algorithm(read: ReadLooks, name: str) -> None:
    """Packed with courses, read, and back-propagated; against scores times the coefficients of the objective."""
    make, critic = CONTESTANTS[name]
    world, make_objective = with_critic(read.world, critic), summed(make)
    drawn = torch.tensor([0, 4, 0, 7, 9, 13, 15, 10])  # four of each scene, one of them twice
    expected_R = world.estimates(make_objective(), drawn, drawn // 9).sum(0)
    given, _ = world.batch(drawn, drawn // 9)
    batch = read.looks.packed(torch.stack(read.logprobs_SK), drawn.tolist())
    assert given.values_T is not None
    found_P = climbed(make_learner(read), read, batch, make_objective(), values_T=given.values_T.float())
    assert_same(read, found_P, expected_R, rel=1e-5)


BETA = 0.3
TERMS = {
    "k1 in the reward": Terms(aggregation="episode-sum", kl="k1", kl_in="reward", kl_weight=BETA),
    "k1 in the loss": Terms(aggregation="episode-sum", kl="k1", kl_weight=BETA),
    "k2 in the loss": Terms(aggregation="episode-sum", kl="k2", kl_weight=BETA),
    "k3 in the loss": Terms(aggregation="episode-sum", kl="k3", kl_weight=BETA),
    "rk3 in the loss": Terms(aggregation="episode-sum", kl="rk3", kl_weight=BETA),
    "entropy": Terms(aggregation="episode-sum", entropy_weight=BETA),
}


def with_terms(name: str) -> MakeObjective:
    """REINFORCE without a baseline, and one term more."""
    return summed(lambda: Reinforce(baseline="none"), TERMS[name])


@pytest.fixture(scope="module")
def referred(read: ReadLooks, reference_SK: Tensor) -> World:
    """The world with that reference."""
    column_T = reference_SK[read.looks.state_T, read.looks.choice_T]
    return replace(read.world, episodes=replace(read.world.episodes, reference_logprobs_T=column_T))


def states_of(read: ReadLooks) -> tuple[Tensor, Tensor]:
    """Log-probabilities [S, K] with the graph, and how often each state is come to, [S], a mean over tasks, without."""
    logprobs_SK = torch.stack(read.logprobs_SK)
    probability_T = read.world.probability_E[read.world.episodes.episode_T] / 2
    return logprobs_SK, torch.zeros(len(logprobs_SK)).double().index_add(0, read.looks.state_T, probability_T)


def exact(read: ReadLooks, scalar: Tensor) -> Tensor:
    """Its gradient by autograd through transformers' model, [R]; it lies within the span of the scores."""
    gradient_P = flat_gradient(scalar, read.parameters)
    coordinates_R = read.scores.coordinates(gradient_P)
    assert float(coordinates_R.norm()) == pytest.approx(float(gradient_P.norm()), rel=1e-6)
    return coordinates_R


def assert_climbs(make: MakeObjective, world: World, expected_R: Tensor) -> None:
    """In expectation over all pairs of an episode of each task."""
    found_R = expected(make, world, tasks=world.tasks, size=1).mean_R
    assert float((found_R - expected_R).norm()) <= 1e-6 * float(expected_R.norm())


def test_kl_in_the_reward_is_that_of_whole_episodes(read: ReadLooks, referred: World) -> None:
    """KL(pi || ref) = E[sum_t log pi - log ref], and what a token does to the KL of later ones is in its gradient."""
    logprobs_T, probability_E = probabilities(read)
    assert referred.episodes.reference_logprobs_T is not None
    gap_E = (logprobs_T - referred.episodes.reference_logprobs_T).view(-1, 2).sum(1)
    whole_R = exact(read, (probability_E * gap_E).sum() / 2)
    assert_climbs(with_terms("k1 in the reward"), referred, referred.gradient() - BETA * whole_R)
    for name in ("k2 in the loss", "rk3 in the loss", "k1 in the loss"):
        with pytest.raises(AssertionError):  # these do not know of later tokens
            assert_climbs(with_terms(name), referred, referred.gradient() - BETA * whole_R)


def test_kl_in_the_loss_is_that_of_each_token_in_its_state(
    read: ReadLooks, referred: World, reference_SK: Tensor
) -> None:
    """How often a state is come to is held fixed: sum_s d(s) KL(pi(.|s) || ref(.|s)); k3 has it the other way round."""
    logprobs_SK, visits_S = states_of(read)
    forward_R = exact(read, visits_S @ (logprobs_SK.exp() * (logprobs_SK - reference_SK)).sum(1))
    backward_R = -torch.einsum("s,sk,skr->r", visits_S, reference_SK.exp(), read.scores.scores_SKR)
    assert_climbs(with_terms("k2 in the loss"), referred, referred.gradient() - BETA * forward_R)
    assert_climbs(with_terms("rk3 in the loss"), referred, referred.gradient() - BETA * forward_R)
    assert_climbs(with_terms("k3 in the loss"), referred, referred.gradient() - BETA * backward_R)
    assert_climbs(with_terms("k1 in the loss"), referred, referred.gradient())  # no effect at all


def test_the_entropy_bonus_is_that_of_each_token_in_its_state(read: ReadLooks) -> None:
    """Not the gradient of the entropy of episodes: how a token leads to states of much entropy is left out."""
    logprobs_SK, visits_S = states_of(read)
    entropy_S = -(logprobs_SK.exp() * logprobs_SK).sum(1)
    tokens_R = exact(read, visits_S @ entropy_S)
    assert_climbs(with_terms("entropy"), read.world, read.world.gradient() + BETA * tokens_R)
    logprobs_T, probability_E = probabilities(read)
    episodes_R = exact(read, -(probability_E * logprobs_T.view(-1, 2).sum(1)).sum() / 2)
    first_T = read.world.episodes.turn_T == 0
    later_T = torch.where(first_T, entropy_S.detach()[read.looks.state_T].roll(-1), 0.0)
    torch.testing.assert_close(episodes_R, tokens_R + read.world.gradient(later_T), atol=1e-6, rtol=1e-6)
    assert float((episodes_R - tokens_R).norm()) > 0.1 * float(episodes_R.norm())


@pytest.mark.parametrize("name", ["k1 in the reward", "k2 in the loss", "rk3 in the loss", "entropy"])
def test_the_learner_climbs_what_is_expected_of_each_term(read: ReadLooks, referred: World, name: str) -> None:
    drawn = torch.tensor([0, 4, 7, 9, 13, 15])
    expected_R = referred.estimates(with_terms(name)(), drawn, drawn // 9).sum(0)
    given, _ = referred.batch(drawn, drawn // 9)
    batch = read.looks.packed(torch.stack(read.logprobs_SK), drawn.tolist())
    assert given.reference_logprobs_T is not None
    reference_T = given.reference_logprobs_T.float()
    found_P = climbed(make_learner(read), read, batch, with_terms(name)(), reference_logprobs_T=reference_T)
    assert_same(read, found_P, expected_R, rel=1e-5)
