"""Quantiles of observed and simulated values in bins, by plain loops."""

import numpy as np

QUANTILES = (0.1, 0.5, 0.9)


def slow_table(x, y, sets, edges, transform=lambda values, inside: values):
    """Quantiles and their intervals by plain loops: {(bin, quantile): (observed, low, median, high)}."""
    out = {}
    for b in range(len(edges) - 1):
        last = b == len(edges) - 2
        inside = [
            i for i in range(len(x)) if edges[b] <= x[i] and (x[i] < edges[b + 1] or (last and x[i] == edges[-1]))
        ]
        observed = transform(np.array([y[i] for i in inside]), inside)
        for q in QUANTILES:
            each = [np.quantile(transform(np.array([row[i] for i in inside]), inside), q) for row in sets]
            out[b + 1, q] = (np.quantile(observed, q), *np.quantile(each, [0.025, 0.5, 0.975]))
    return out


def same_as(table, expected, column="QUANTILE"):
    assert len(table) == len(expected)
    for row in table.to_dict("records"):
        got = [row[name] for name in ("OBSERVED", "SIM_LOW", "SIM_MEDIAN", "SIM_HIGH")]
        np.testing.assert_allclose(got, expected[row["BIN"], row[column]], rtol=1e-12, atol=1e-12)
        assert row["OUTSIDE"] == (got[0] < got[1] or got[0] > got[3])
