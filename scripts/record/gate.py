"""The experts that a gate chooses from its logits, in numpy (softmax before or after the choice, sigmoid, groups, bias of the choice)."""
import numpy as np


def softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def largest(values, k):
    """Indices of the k largest, the largest first, equal ones by index."""
    return np.argsort(-values, axis=-1, kind="stable")[..., :k]


def inside_best_groups(choice, facts):
    """Scores of the choice, -inf outside the topk_group best of n_group runs of experts."""
    grouped = choice.reshape(*choice.shape[:-1], facts.n_group, -1)
    top = np.sort(grouped, axis=-1)[..., ::-1]
    value = top[..., 0] if facts.score == "softmax" else top[..., :2].sum(axis=-1)
    kept = np.zeros(value.shape, bool)
    np.put_along_axis(kept, largest(value, facts.topk_group), True, axis=-1)
    return np.where(kept[..., None], grouped, -np.inf).reshape(choice.shape)


def choose(logits, facts, choice_bias=None):
    """(ids, weights) [tokens, top_k] of logits [tokens, experts]."""
    logits = np.asarray(logits, "f8")
    scores = softmax(logits) if facts.score == "softmax" else 1 / (1 + np.exp(-logits))
    choice = scores + choice_bias if choice_bias is not None else logits if facts.score == "softmax" else scores
    if facts.n_group > 1:
        choice = inside_best_groups(choice, facts)
    ids = largest(choice, facts.top_k)
    weights = np.take_along_axis(scores, ids, axis=-1)
    if facts.renormalise or facts.order == "post":
        weights = weights / weights.sum(axis=-1, keepdims=True)
    return ids, weights * facts.scale
