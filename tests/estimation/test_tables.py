"""EBEs, shrinkage, Omega and the tables of predictions."""

import numpy as np
import pandas as pd
import pytest
import torch

import contract_models as cm
import deepnlme as dn

COLUMNS = ["ID", "TIME", "DV", "PRED", "RES", "WRES", "IPRED", "IRES", "IWRES", "CPRED", "CWRES"]


@pytest.fixture(scope="module")
def plain():
    return dn.evaluate_ofv(cm.Oral(), cm.plain())


@pytest.fixture(scope="module")
def iov():
    return dn.evaluate_ofv(cm.Occasions(), cm.occasions())


def oral(t, ka, cl, v, dose=100.0):
    k = cl / v
    return dose / v * ka / (ka - k) * (np.exp(-k * t) - np.exp(-ka * t))


def test_columns(plain):
    table = plain.predictions()
    assert list(table.columns) == [*COLUMNS, "ETA_ka", "ETA_cl", "ETA_v"]
    assert len(table) == 14
    assert (table["RES"] == table["DV"] - table["PRED"]).all()
    assert (table["IRES"] == table["DV"] - table["IPRED"]).all()


def test_predictions_and_residuals_by_the_formulas(plain):
    """Every column from its definition, with derivatives by complex steps."""
    import slow_likelihood as slow

    table = plain.predictions()
    omega = np.diag([0.2, 0.1, 0.05])
    for i, (_, rows) in enumerate(table.groupby("ID", sort=False)):
        t, y, eta = rows["TIME"].to_numpy(), rows["DV"].to_numpy(), plain.ebes.eta[i]
        f = lambda e, t=t: oral(t, 1.1 * np.exp(e[0]), 2.7 * np.exp(e[1]), 18 * np.exp(e[2]))  # noqa: E731
        np.testing.assert_allclose(rows["PRED"], f(np.zeros(3)), rtol=1e-10)
        np.testing.assert_allclose(rows["IPRED"], f(eta), rtol=1e-10)
        r = lambda v: 0.15**2 + (0.2 * v) ** 2  # noqa: E731
        np.testing.assert_allclose(rows["IWRES"], (y - f(eta)) / np.sqrt(r(f(eta))), rtol=1e-9)

        def white(at, residual, extra=0.0, f=f, r=r):
            g = slow.jacobian(f, at)
            c = g @ omega @ g.T + np.diag(r(f(at)) + extra)
            values, vectors = np.linalg.eigh(c)
            return vectors @ ((vectors.T @ residual) / np.sqrt(values))

        g = slow.jacobian(f, eta)
        np.testing.assert_allclose(rows["CPRED"], f(eta) - g @ eta, rtol=1e-9)
        np.testing.assert_allclose(rows["CWRES"], white(eta, y - f(eta) + g @ eta), rtol=1e-8)
        zero = np.zeros(3)
        g = slow.jacobian(f, zero)
        # with interaction: the proportional part b f varies with eta
        extra = 0.2**2 * np.einsum("na,ab,nb->n", g, omega, g)
        np.testing.assert_allclose(rows["WRES"], white(zero, y - f(zero), extra), rtol=1e-8)
        np.testing.assert_allclose(
            rows[["ETA_ka", "ETA_cl", "ETA_v"]].to_numpy(), np.tile(eta, (len(t), 1)), rtol=1e-12
        )


@pytest.mark.parametrize("method", [dn.FO(), dn.FOCE(interaction=False)], ids=lambda m: m.name)
def test_without_interaction_the_residual_variance_is_that_of_eta_zero(method):
    import slow_likelihood as slow

    found = dn.evaluate_ofv(cm.Oral(), cm.plain(), method)
    table = found.predictions()
    omega = np.diag([0.2, 0.1, 0.05])
    for i, (_, rows) in enumerate(table.groupby("ID", sort=False)):
        t, y, eta = rows["TIME"].to_numpy(), rows["DV"].to_numpy(), found.ebes.eta[i]
        f = lambda e, t=t: oral(t, 1.1 * np.exp(e[0]), 2.7 * np.exp(e[1]), 18 * np.exp(e[2]))  # noqa: E731
        r = 0.15**2 + (0.2 * f(np.zeros(3))) ** 2
        for name, at in (("WRES", np.zeros(3)), ("CWRES", eta)):
            g = slow.jacobian(f, at)
            values, vectors = np.linalg.eigh(g @ omega @ g.T + np.diag(r))
            residual = y - f(at) + g @ at
            np.testing.assert_allclose(rows[name], vectors @ ((vectors.T @ residual) / np.sqrt(values)), rtol=1e-8)
    # and so are the random effects: after FO they are NONMEM's POSTHOC
    other = dn.evaluate_ofv(cm.Oral(), cm.plain(), dn.FOCE(interaction=False))
    np.testing.assert_allclose(found.ebes.eta, other.ebes.eta, atol=1e-7)


def test_single_part_residual():
    """sd = a + b f as one part: NONMEM's y = f + W eps with W = a + b f."""

    class Single(cm.Oral):
        def observe(self, theta, p, x):
            f = x.central / p.v
            return dict(dv=dn.Normal(f, dn.combined1(f, theta.a, theta.b)))

    import slow_likelihood as slow

    table = dn.evaluate_ofv(Single(), cm.plain()).predictions()
    omega = np.diag([0.2, 0.1, 0.05])
    for _, rows in table.groupby("ID", sort=False):
        t, y = rows["TIME"].to_numpy(), rows["DV"].to_numpy()
        f = lambda e, t=t: oral(t, 1.1 * np.exp(e[0]), 2.7 * np.exp(e[1]), 18 * np.exp(e[2]))  # noqa: E731
        g = slow.jacobian(f, np.zeros(3))
        r = (0.15 + 0.2 * f(np.zeros(3))) ** 2 + 0.04 * np.einsum("na,ab,nb->n", g, omega, g)
        values, vectors = np.linalg.eigh(g @ omega @ g.T + np.diag(r))
        expected = vectors @ ((vectors.T @ (y - f(np.zeros(3)))) / np.sqrt(values))
        np.testing.assert_allclose(rows["WRES"], expected, rtol=1e-8)


def test_all_records(plain):
    population = cm.plain()
    table = plain.predictions(all_records=True)
    frame = population.to_frame()
    assert len(table) == len(frame) == 18
    assert list(table.columns[:4]) == ["ID", "TIME", "EVID", "MDV"]
    np.testing.assert_array_equal(table[["ID", "TIME", "EVID"]], frame[["ID", "TIME", "EVID"]])
    doses = table["MDV"] == 1
    assert table.loc[doses, "PRED"].notna().all()
    assert table.loc[doses, ["DV", "RES", "WRES", "IRES", "IWRES", "CWRES"]].isna().all(axis=None)
    seen = table[~doses].drop(columns=["EVID", "MDV"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(seen, plain.predictions())


def test_tables_are_copies(plain):
    table = plain.predictions()
    table["PRED"] = 0.0
    assert (plain.predictions()["PRED"] > 0).all()


def test_two_endpoints():
    population = cm.two_endpoints()
    found = dn.evaluate_ofv(cm.TwoEndpoints(), population)
    table = found.predictions()
    frame = population.to_frame()
    seen = frame[frame["MDV"] == 0]
    assert len(table) == len(seen)
    np.testing.assert_array_equal(table["TIME"], seen["TIME"])
    np.testing.assert_allclose(table["DV"], seen["DV"])
    assert set(table["DVID"]) == {"cp", "effect"}
    cp, effect = (table[table["DVID"] == n].reset_index(drop=True) for n in ("cp", "effect"))
    merged = effect.merge(cp, on=["ID", "TIME"], suffixes=("", "_cp"))
    assert len(merged) == len(effect)
    np.testing.assert_allclose(merged["PRED"], 10.0 - 0.6 * merged["PRED_cp"], rtol=1e-10)
    np.testing.assert_allclose(merged["IPRED"], 10.0 - 0.6 * merged["IPRED_cp"], rtol=1e-10)
    # log-normal: medians on the scale of the data, weighted residuals on the logarithm
    np.testing.assert_allclose(cp["IWRES"], np.log(cp["DV"] / cp["IPRED"]) / 0.2, rtol=1e-9)
    np.testing.assert_allclose(effect["IWRES"], effect["IRES"] / 0.5, rtol=1e-9)
    assert (found.predictions(all_records=True).query("MDV == 1")["DVID"] == "").all()


def test_censored_observations_have_no_residuals_that_pretend_to_be_normal():
    table = dn.evaluate_ofv(cm.Oral(), cm.censored("below")).predictions()
    hidden = table["CENS"] != 0
    assert hidden.any()
    assert table.loc[hidden, ["WRES", "IWRES", "CWRES"]].isna().all(axis=None)
    assert table.loc[~hidden, ["WRES", "IWRES", "CWRES"]].notna().all(axis=None)
    assert table["IPRED"].notna().all()


def test_other_distributions_have_their_mean():
    found = dn.evaluate_ofv(cm.Counts(), cm.longitudinal("counts"), dn.Laplace())
    table = found.predictions()
    np.testing.assert_allclose(table["PRED"], 6.0 * np.exp(-0.2 * table["TIME"]), rtol=1e-10)
    expected = 6.0 * np.exp(table["ETA_rate"]) * np.exp((-0.2 + table["ETA_slope"]) * table["TIME"])
    np.testing.assert_allclose(table["IPRED"], expected, rtol=1e-10)
    assert table[["WRES", "IWRES", "CWRES"]].isna().all(axis=None)
    assert np.isnan(found.epsilon_shrinkage)


def test_names_of_random_effects(iov):
    names = ("ka", "cl", "v", "kappa@1", "kappa@2", "kappa@3")
    assert iov.ebes.names == names
    frame = iov.etas()
    assert list(frame.columns) == ["ID", *(f"ETA_{n}" for n in names), *(f"SE_{n}" for n in names)]
    assert list(frame["ID"]) == [1, 2, 3, 4]
    np.testing.assert_allclose(frame.loc[:, "ETA_ka":"ETA_kappa@3"], iov.ebes.eta)
    vector = dn.evaluate_ofv(cm.Vector(), cm.plain())
    assert vector.ebes.names == ("ka", "cl", "v", "latent1", "latent2")
    assert list(vector.omega.columns) == ["ka", "cl", "v", "latent1", "latent2"]


def test_omega_table(iov):
    expected = np.diag([0.2, 0.1, 0.05, 0.06])
    np.testing.assert_allclose(iov.omega, expected, rtol=1e-12)
    assert list(iov.omega.index) == list(iov.omega.columns) == ["ka", "cl", "v", "kappa"]
    block = dn.evaluate_ofv(cm.Block(), cm.plain())
    np.testing.assert_allclose(block.omega, cm.Block().groups["eta"].omega, rtol=1e-10)
    assert block.estimates["omega[v,cl]"] == pytest.approx(-0.02, rel=1e-10)


def test_shrinkage_counts_the_occasions_that_were(iov):
    """1 - sd over all occasions of all subjects; the occasions that a subject did not have are left out."""
    eta = iov.ebes.eta
    for i, name in enumerate(("ka", "cl", "v")):
        variance = iov.omega.loc[name, name]
        assert iov.shrinkage[name] == pytest.approx(
            100 * (1 - np.std(eta[:, i], ddof=1) / np.sqrt(variance)), rel=1e-12
        )
    there = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 0]], dtype=bool)
    values = eta[:, 3:][there]
    assert len(values) == 8
    assert iov.shrinkage["kappa"] == pytest.approx(100 * (1 - np.std(values, ddof=1) / np.sqrt(0.06)), rel=1e-12)
    assert (eta[:, 3:][~there] == 0).all()
    # where there is nothing to learn from, the uncertainty is that of the population
    missing = iov.ebes.covariance[1, 4, 4]
    assert missing == pytest.approx(0.06, rel=1e-10)


def test_covariance_of_random_effects_is_smaller_than_omega(iov):
    found = iov.ebes
    assert (np.diagonal(found.covariance, axis1=1, axis2=2)[:, 0] < 0.2).all()
    np.testing.assert_allclose(found.covariance, np.swapaxes(found.covariance, 1, 2), rtol=1e-10)


def test_predict_without_fitting(plain):
    population = cm.plain()
    at_zero = dn.predict(cm.Oral(), population)
    np.testing.assert_allclose(at_zero["IPRED"], at_zero["PRED"], rtol=1e-12)
    np.testing.assert_allclose(at_zero["PRED"], plain.predictions()["PRED"], rtol=1e-12)
    at_modes = dn.predict(cm.Oral(), population, eta=plain.ebes.eta)
    np.testing.assert_allclose(at_modes["IPRED"], plain.predictions()["IPRED"], rtol=1e-9)
    np.testing.assert_allclose(at_modes["CWRES"], plain.predictions()["CWRES"], rtol=1e-8)
    other = dn.predict(cm.Oral(), population, at=dict(v=36.0))
    assert not np.allclose(other["PRED"], at_zero["PRED"])
    with pytest.raises(dn.ModelError, match=r"Invalid `eta`: got shape \(2, 3\), expected \(4, 3\)"):
        dn.predict(cm.Oral(), population, eta=np.zeros((2, 3)))


def test_predict_where_nothing_was_observed():
    frame = cm.records(cm.TIMES)
    frame["MDV"] = 1
    frame["DV"] = np.nan
    table = dn.predict(cm.Oral(), dn.read_nonmem(frame), all_records=True)
    assert len(table) == 18
    assert table["PRED"].notna().all()
    assert table["DV"].isna().all()


def test_predict_with_an_effect_that_is_switched_off():
    """A fixed variance of zero: etas of zero are fine; others cannot be, and are refused."""
    population = cm.plain()
    eta = np.zeros((4, 5))
    eta[:, 1] = 0.2
    table = dn.predict(cm.Vector(), population, eta=eta)
    np.testing.assert_allclose(table["ETA_cl"], 0.2, rtol=1e-12)
    eta[:, 0] = 0.1
    with pytest.raises(dn.ModelError, match="`eta`"):
        dn.predict(cm.Vector(), population, eta=eta)


def test_large_populations_are_tabulated_in_pieces(monkeypatch):
    from deepnlme.estimation import individuals

    population = cm.occasions()
    found = dn.evaluate_ofv(cm.Occasions(), population)
    whole = found.predictions()
    monkeypatch.setattr(individuals, "NUMBERS", 1)
    pieces = dn.evaluate_ofv(cm.Occasions(), population).predictions()
    pd.testing.assert_frame_equal(whole, pieces, rtol=1e-9, atol=1e-9)


def test_tables_of_two_endpoints_in_pieces(monkeypatch):
    """A piece in which one endpoint does not occur has the same columns."""
    from deepnlme.estimation import individuals

    frame = cm.two_endpoints().to_frame()
    frame = frame[~((frame["ID"] == 3) & (frame["DVID"] == "effect"))]
    population = dn.read_nonmem(frame)
    found = dn.evaluate_ofv(cm.TwoEndpoints(), population)
    whole = found.predictions()
    monkeypatch.setattr(individuals, "NUMBERS", 1)
    pieces = dn.evaluate_ofv(cm.TwoEndpoints(), population).predictions()
    pd.testing.assert_frame_equal(whole, pieces, rtol=1e-9, atol=1e-9)


def test_tables_of_censored_data_in_pieces(monkeypatch):
    from deepnlme.estimation import individuals

    population = cm.censored("below")
    whole = dn.evaluate_ofv(cm.Oral(), population).predictions()
    monkeypatch.setattr(individuals, "NUMBERS", 1)
    pieces = dn.evaluate_ofv(cm.Oral(), population).predictions()
    pd.testing.assert_frame_equal(whole, pieces, rtol=1e-9, atol=1e-9)


def test_parameter_table(plain):
    fit = dn.fit(
        cm.Oral(),
        dn.read_nonmem(cm.records([[0.4, 1.0, 2.0, 4.0, 8.0]] * 12, seed=8)),
        dn.FO(),
        options=dn.Options(progress=False),
    )
    table = fit.table()
    assert list(table.columns) == [
        "Unit",
        "Estimate",
        "SE",
        "RSE%",
        "CI95 low",
        "CI95 high",
        "BSV CV%",
        "Shrinkage%",
        "Fixed",
    ]
    assert table.loc["cl", "RSE%"] == pytest.approx(100 * fit.se["cl"] / fit.estimates["cl"])
    width = 1.959963984540054 * fit.se["cl"] / fit.estimates["cl"]
    assert table.loc["cl", "CI95 low"] == pytest.approx(fit.estimates["cl"] * np.exp(-width))
    assert table.loc["omega[cl]", "BSV CV%"] == pytest.approx(100 * np.sqrt(np.exp(fit.estimates["omega[cl]"]) - 1))
    assert table.loc["omega[cl]", "Shrinkage%"] == pytest.approx(fit.shrinkage["cl"])
    assert np.isnan(table.loc["cl", "BSV CV%"])
    head = str(fit).splitlines()
    assert head[0] == "Oral: FO, 12 subjects, 60 observations"
    assert "converged" in head[1]
    assert head[2].startswith("OFV (FO) ")
    assert {"AIC", "BIC", "-2LL"} <= set(head[2].split())


def test_naive_pooled_residuals_do_not_depend_on_omega():
    small, large = (
        dn.fit(
            cm.Oral(eta=dn.RandomEffects("ka", "cl", "v", omega=w)),
            cm.plain(),
            dn.NaivePooled(),
            options=dn.Options(progress=False, max_iterations=3),
        ).predictions()
        for w in (0.01, 2.0)
    )
    for column in ("WRES", "CWRES"):
        np.testing.assert_allclose(small[column], small["IWRES"], rtol=1e-9)
        np.testing.assert_allclose(small[column], large[column], rtol=1e-9)


def test_a_subject_without_a_prediction_does_not_spoil_the_table():
    """A lag longer than II has no steady state."""
    subjects = [
        dn.Subject(i, dn.Dose(100, ss=1, ii=12), ([1.0, 5.0], [9.0, 6.0]), {"lag": 1.0 + 19 * i}) for i in (0, 1)
    ]

    class Lagged(dn.Model):
        k = dn.Positive(0.1)
        sd = dn.Positive(0.5)
        eta = dn.RandomEffects("k", omega=0.1)
        dynamics = dn.OneCompartment(parameters="rates")

        def individual(self, theta, eta, cov):
            return dict(k=theta.k * torch.exp(eta.k), lag=cov.lag)

        def dosing(self, theta, p):
            return dict(central=dn.Dosing(lag=p.lag))

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(x.central / 10, theta.sd))

    both, first = (dn.predict(Lagged(), dn.Population(subjects[:n])) for n in (2, 1))
    pd.testing.assert_frame_equal(both[:2], first)
    assert both.loc[2:, ["PRED", "WRES", "CWRES"]].isna().all(axis=None)


def test_subjects_without_observations_are_in_no_table(monkeypatch):
    """Also where they are a piece of their own, or everybody."""
    from deepnlme.estimation import individuals

    monkeypatch.setattr(individuals, "NUMBERS", 1)
    frame = cm.plain().to_frame()
    population = dn.read_nonmem(frame.assign(MDV=np.where(frame["ID"] == 2, 1, frame["MDV"])))
    table = dn.predict(cm.Oral(), population)
    assert set(table["ID"]) == {1, 3, 4} and table["IPRED"].notna().all()
    assert dn.predict(cm.Oral(), population[[1]]).empty
    assert len(dn.predict(cm.Oral(), population[[1]], all_records=True)) == (frame["ID"] == 2).sum()
