"""What is in the features? kNN, a linear probe, t-SNE, neighbours. NumPy in, NumPy out.

A clip's frame features (T, D) are first pooled to one vector a clip.
"""

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Array = NDArray[np.float32]


def pool(features: list[Array]) -> Array:
    """Mean and spread of each dimension over time: N x (T_i, D) -> (N, 2 D). Order-free."""
    return np.stack([np.concatenate([f.mean(0), f.std(0)]) for f in features])


def spread(features: list[Array]) -> Array:
    """Spread alone, (N, D): without the mean, which holds the wall and the clothes."""
    return np.stack([f.std(0) for f in features])


def _unit(x: Array) -> Array:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def knn(train: Array, labels: list[str], test: Array, k: int = 10) -> list[str]:
    """Predicted labels of `test` by the k nearest by cosine, as in the paper's monitor."""
    model = KNeighborsClassifier(min(k, len(train)), metric="cosine", weights="distance")
    # MiB of distances at once, which scarcely fit a processor's cache; 1,024 by default
    with config_context(working_memory=16):
        return list(model.fit(_unit(train), labels).predict(_unit(test)))


def linear_probe(train: Array, labels: list[str], test: Array, c: float = 0.1) -> list[str]:
    """Predicted labels of `test` by logistic regression on standardised features; `c` is
    scikit-learn's C, the inverse of the regularisation."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a probe that has not quite converged serves as well
        return list(model.fit(train, labels).predict(test))


def accuracy(predicted: list[str], true: list[str]) -> float:
    """Share of equal labels, 0..1; nan for none."""
    return float(np.mean([p == t for p, t in zip(predicted, true, strict=True)]))


def bootstrap_by_person(
    correct: NDArray[np.bool_], people: list[str], draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the accuracy, drawing people, not clips: clips of one person are alike, and
    counting them as independent would make the interval too narrow."""
    _, who = np.unique(people, return_inverse=True)
    clips, right = np.bincount(who), np.bincount(who, correct)
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(clips), size=len(clips)) for _ in range(draws))
    means = [right[some].sum() / clips[some].sum() for some in drawn]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def tsne(x: Array, seed: int = 0, perplexity: float = 20.0) -> Array:
    """t-SNE (van der Maaten & Hinton, 2008) of (N, D) -> (N, 2), cosine distances, PCA start."""
    if len(x) < 2 or (x == x[0]).all():  # nothing to tell apart
        return np.zeros((len(x), 2), np.float32)
    perplexity = min(perplexity, max(1.0, (len(x) - 1) / 3))
    model = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return model.fit_transform(_unit(x))


def neighbours(x: Array, query: Array, k: int = 5) -> NDArray[np.intp]:
    """Indices (Q, k) into x (N, D) of the k nearest to each of query (Q, D) by cosine."""
    model = NearestNeighbors(n_neighbors=min(k, len(x)), metric="cosine").fit(_unit(x))
    return model.kneighbors(_unit(query), return_distance=False)
