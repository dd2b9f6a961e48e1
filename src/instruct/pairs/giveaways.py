"""How far simple rules tell the chosen answer from the rejected one: what a reward accuracy must beat.

Where words alone, or length alone, tell most pairs, a model that does so too has not learnt what is better.
"""

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import expit

from instruct.core.pairs import Pair
from instruct.pairs.dividing import groups_of

FOLDS = 5
Floats = npt.NDArray[np.float64]
_WORD = re.compile(r"\w+|[^\w\s]")


def longer_chosen(pairs: Sequence[Pair]) -> float:
    """The share of pairs whose chosen answer is the longer one in characters, equal lengths being half, in per cent."""
    won = sum((len(one.output) > len(one.rejected)) + (len(one.output) == len(one.rejected)) / 2 for one in pairs)
    return round(100.0 * won / len(pairs), 2)


def words_accuracy(pairs: Sequence[Pair], seed: int) -> float | None:
    """The share of pairs that a bag of words tells, cross-validated over whole groups, in per cent; ties are half.

    A logistic regression on which words the two answers hold: fitted on all folds but one, scored on that one. None
    where there are fewer than two groups.
    """
    places = fold_of(pairs, seed)
    if len(set(places.tolist())) < 2:
        return None
    features = word_differences(pairs)
    won = 0.0
    for fold in range(FOLDS):
        held = places == fold
        if held.any():
            margins = features[held] @ fit_logistic(features[~held])
            won += float((margins > 0).sum() + (margins == 0).sum() / 2)
    return round(100.0 * won / len(pairs), 2)


def fold_of(pairs: Sequence[Pair], seed: int) -> npt.NDArray[np.int64]:
    """The fold of each pair; all pairs of a group are in one."""
    groups = groups_of(pairs)
    order = sorted(set(groups), key=lambda group: sha256(f"{seed}\x1ffold\x1f{group[1]}".encode()).hexdigest())
    place = {group: i % FOLDS for i, group in enumerate(order)}
    return np.array([place[group] for group in groups], dtype=np.int64)


def word_differences(pairs: Sequence[Pair]) -> csr_matrix:
    """(pairs, words): 1 for a word in the chosen answer alone, -1 for one in the rejected answer alone."""
    known: dict[str, int] = {}
    values, columns, ends = list[float](), list[int](), [0]
    for one in pairs:
        chosen, rejected = (set(_WORD.findall(text)) for text in (one.output, one.rejected))
        for sign, words in ((1.0, chosen - rejected), (-1.0, rejected - chosen)):
            columns += [known.setdefault(word, len(known)) for word in sorted(words)]
            values += [sign] * len(words)
        ends.append(len(columns))
    return csr_matrix((values, columns, ends), shape=(len(pairs), max(1, len(known))))


def fit_logistic(features: csr_matrix) -> Floats:
    """(words,): the weights under which every row is most likely positive, with a Gaussian prior of variance 1.

    Without an intercept: which answer of a pair comes first says nothing.
    """

    def loss(weights: Floats) -> tuple[float, Floats]:
        margins = features @ weights
        slope = features.T @ -expit(-margins) + weights
        return float(np.logaddexp(0.0, -margins).sum() + weights @ weights / 2), slope

    found: Any = minimize(loss, np.zeros(features.shape[1]), jac=True, method="L-BFGS-B", options={"gtol": 1e-6})
    return np.asarray(found.x, dtype=np.float64)
