"""Writes logistic_regression.json: optima of multinomial logistic regression from scikit-learn.

    python make_golden.py        # scikit-learn 1.9.1, numpy 2.4.6

scikit-learn minimises C * sum of losses + |W|^2 / 2; with C = 1 / (n * l2) that is n * l2 times ours.
"""

import json
import pathlib

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

CLASSES, DIM, TRAIN, TEST = 3, 6, 90, 60


def features(rng, labels, means):
    """Overlapping classes at unequal scales and offsets, one feature constant; exact in f32."""
    x = means[labels] + rng.normal(size=(len(labels), DIM))
    x = x * np.array([1.0, 100.0, 0.01, 1.0, 5.0, 1.0]) + np.array([0.0, 1000.0, 0.0, -3.0, 0.0, 0.0])
    x[:, 5] = 7.25
    return x.astype(np.float32)


def main():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(CLASSES, DIM)) * 0.9
    # Class 0 is more frequent: an intercept that is missing or penalised shows.
    y_train = rng.choice(CLASSES, size=TRAIN, p=[0.6, 0.25, 0.15])
    y_test = rng.choice(CLASSES, size=TEST, p=[0.6, 0.25, 0.15])
    x_train, x_test = features(rng, y_train, means), features(rng, y_test, means)
    scaler = StandardScaler().fit(x_train.astype(np.float64))
    z_train, z_test = scaler.transform(x_train.astype(np.float64)), scaler.transform(x_test.astype(np.float64))

    fits = []
    for l2 in [1.0, 1e-2, 1e-4]:
        model = LogisticRegression(C=1.0 / (TRAIN * l2), tol=1e-12, max_iter=100_000).fit(z_train, y_train)
        logp = model.predict_log_proba(z_train)
        loss = -logp[np.arange(TRAIN), y_train].mean()
        fits.append(
            {
                "l2": l2,
                "objective": float(loss + 0.5 * l2 * (model.coef_**2).sum()),
                "weights": model.coef_.ravel().tolist(),
                "biases": (model.intercept_ - model.intercept_.mean()).tolist(),
                "predicted": model.predict(z_test).tolist(),
            }
        )
    golden = {
        "dim": DIM,
        "train": {"values": x_train.ravel().tolist(), "labels": y_train.tolist()},
        "test": {"values": x_test.ravel().tolist(), "labels": y_test.tolist()},
        "fits": fits,
    }
    path = pathlib.Path(__file__).parent / "logistic_regression.json"
    path.write_text(json.dumps(golden))


if __name__ == "__main__":
    main()
