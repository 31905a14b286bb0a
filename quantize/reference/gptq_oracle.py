"""GPTQ as its paper has it, through the inverse of the Hessian, on a small dense matrix: what quantize/src/methods/gptq.rs must give.

    python quantize/reference/gptq_oracle.py tests/fixtures/gptq.json
"""

import json
import sys

import numpy as np

GROUP = 32
LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
SHIFT = 4
DAMPING = 0.01


def main(path):
    rng = np.random.default_rng(6)
    rows, cols, steps = 5, 80, 120
    mix = rng.normal(size=(cols, cols)) / np.sqrt(cols) + np.eye(cols)
    inputs = (rng.normal(size=(steps, cols)) * np.exp(rng.normal(size=cols))) @ mix
    inputs = inputs.round(3).astype(np.float32)
    weights = rng.normal(size=(rows, cols)).round(4).astype(np.float32)

    hessian = inputs.astype(np.float64).T @ inputs.astype(np.float64)
    groups = [list(range(at, min(at + GROUP, cols))) for at in range(0, cols, GROUP)]
    diagonal = np.diag(hessian)
    # Groups stay together; they and their columns go by importance, the largest first.
    turns = sorted(range(len(groups)), key=lambda g: -diagonal[groups[g]].sum())
    order = [c for g in turns for c in sorted(groups[g], key=lambda c: -diagonal[c])]
    damped = hessian + DAMPING * diagonal.mean() * np.eye(cols)

    scale = np.abs(weights).max(axis=1) / 127 / 63
    factor = rng.integers(40, 64, size=(rows, len(groups))) * rng.choice([-1, 1], size=(rows, len(groups)))
    table = rng.integers(0, 2, size=(rows, len(groups)))

    # Upper Cholesky factor of the inverse, columns in their order.
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    left = weights[:, order].astype(np.float64)
    codes = np.zeros((rows, cols), int)
    closest = np.inf
    for j, col in enumerate(order):
        group = col // GROUP
        for r in range(rows):
            step = scale[r] * factor[r, group]
            values = (LEVELS + SHIFT * table[r, group]) * step
            far = np.abs(values - left[r, j])
            code = int(far.argmin())
            ahead = np.partition(far, 1)
            closest = min(closest, (ahead[1] - ahead[0]) / abs(step))
            codes[r, col] = code
            left[r, j + 1 :] -= (left[r, j] - values[code]) / upper[j, j] * upper[j, j + 1 :]
    # A tie would be decided by rounding.
    assert closest > 1e-3, closest

    fixture = {
        "rows": rows,
        "cols": cols,
        "inputs": inputs.astype(np.float64).round(3).ravel().tolist(),
        "weights": weights.astype(np.float64).round(4).ravel().tolist(),
        "scales": scale.astype(np.float32).tolist(),
        "factors": factor.ravel().tolist(),
        "tables": table.ravel().tolist(),
        "codes": codes.ravel().tolist(),
    }
    with open(path, "w") as file:
        json.dump(fixture, file)
        file.write("\n")
    print(f"{path}: closest decision {closest:.1e} of a step")


if __name__ == "__main__":
    main(sys.argv[1])
