"""Units of a model's networks, found from the data and the model at its initial values.

Every network is silenced (it returns its typical value, whatever its inputs) and the model is evaluated at eta = 0, at
the times of the observations.

*Inputs* get the mean and the standard deviation of what the network would have seen. One that never varies gets its
own size; one that is zero there, as a random effect is, keeps its units: its size is what Omega says. The components of
a vector, such as the pixels of an image, share one mean and one standard deviation.

*Outputs* get the size of a plausible change of what they drive: an individual parameter or initial state changes by
its own size, a prediction by the spread of the observations, and the derivative of a state by the state's size over
the typical time between two observations of a subject.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from deepnlme.axes import SCALAR_NDIM, Names
from deepnlme.data import Population
from deepnlme.dynamics import gather_time
from deepnlme.dynamics.vector_field import VectorField
from deepnlme.joint.calling import model_arithmetic
from deepnlme.joint.density import Joint
from deepnlme.model import Model
from deepnlme.nn import NeuralNetwork
from deepnlme.nn.activations import POSITIVE
from deepnlme.nn.silent import Silent
from deepnlme.observation import Gaussian

MAX_SUBJECTS = 200
"""Subjects that are looked at."""
FLAT = 1e-6
"""Standard deviation relative to the largest value below which an input does not vary."""


def calibrated(model: Model, population: Population) -> Model:
    """The model with the units of all its networks set; itself if none are missing."""
    missing = [n for n, net in model.networks.items() if not net.scaling.complete]
    if not missing:
        return model
    silent = {n: Silent(net) for n, net in model.networks.items()}
    probe = copy.copy(model)
    probe.declared = {**model.declared, **silent}
    looked = _Looked(Joint(probe, population[:MAX_SUBJECTS]), silent)
    with model_arithmetic():
        looked.at_everything()
    new = copy.copy(model)
    new.declared = {**model.declared, **{n: looked.scaled(n, model.networks[n]) for n in missing}}
    return new


@dataclass
class _Looked:
    """What the silenced networks were given, and what their outputs drive.

    Attributes:
        joint: The silenced model on the data.
        silent: Its networks.
        inputs: Per network what it was given, each [M, inputs].
        sizes: Per network and output the plausible changes, one for every quantity that it drives.
        shifts: Per network the change of its outputs that the observations ask for, where it makes predictions.
    """

    joint: Joint
    silent: dict[str, Silent]
    inputs: dict[str, list[Tensor]] = field(default_factory=dict)
    sizes: dict[str, list[list[float]]] = field(default_factory=dict)
    shifts: dict[str, np.ndarray] = field(default_factory=dict)

    def scaled(self, name: str, net: NeuralNetwork) -> NeuralNetwork:
        """A network with its units."""
        center, scale = _input_units(self.inputs.get(name, []), self.silent[name].sizes)
        found = self.sizes.get(name, [[] for _ in range(net.outputs)])
        size = np.array([float(np.median(s)) if s else 1.0 for s in found])
        shift = self.shifts.get(name, np.zeros(net.outputs))
        at_zero = POSITIVE.get(net.output_activation, 0.0)
        return net.scaled(
            net.scaling.filled(
                input_center=center,
                input_scale=scale,
                output_center=shift,
                output_scale=size / at_zero if at_zero else size,
            )
        )

    def at_everything(self) -> None:
        """Individual parameters, observation model and vector field, one after the other."""
        joint, batch = self.joint, self.joint.batch
        u = torch.tensor(joint.space.initial(), dtype=torch.float64).expand(1, batch.rows, -1)
        values = joint.space.values(u)
        z = torch.zeros(1, batch.rows, joint.k, dtype=torch.float64)
        with torch.no_grad():
            states = joint.individuals(values, z, batch, order=1).states
        self._start_listening()
        theta, p, over, _ = joint.parameters(values, z, batch)
        initial = joint.initial(theta, p)
        driven = [v for v in [*p.values(), *initial.values()] if v.dim() == SCALAR_NDIM]
        counts = torch.as_tensor(np.diff(joint.population.starts))
        records = torch.arange(batch.time.shape[1]) < counts[:, None]
        self._hear(driven, [_rms(_counted(v.detach(), records)) for v in driven], records)
        p, over = (Names("p", {k: v.detach() for k, v in n.items()}) for n in (p, over))
        sizes = self._observed(theta, p, states)
        if joint.model.is_ode:
            self._field(theta, over, states, sizes)

    def _start_listening(self) -> None:
        for net in self.silent.values():
            net.seen, net.pushes = [], []

    def _hear(self, driven: Sequence[Tensor], sizes: Sequence[float], valid: Tensor) -> list[str]:
        """Note the networks' inputs, and the changes of their outputs that change what they drive by its size.

        Args:
            driven: Quantities.
            sizes: The size of each.
            valid: [R, T] which of the rows' times are in the data, the others being padding.

        Returns:
            The networks that were called.
        """
        called = [n for n, net in self.silent.items() if net.seen]
        for name in called:
            net = self.silent[name]
            self.inputs.setdefault(name, []).extend(_counted(x, valid) for x in net.seen)
            found = self.sizes.setdefault(name, [[] for _ in range(net.outputs)])
            for value, size in zip(driven, sizes, strict=True):
                for push in _slopes(value, net.pushes):
                    for m, slope in enumerate(_counted(push, valid).unbind(-1)):
                        effect = _rms(slope[slope != 0])
                        if effect > 0 and size > 0:
                            found[m].append(size / effect)
        self._start_listening()
        return called

    def _observed(self, theta: Names, p: Names, states: dict[str, Tensor]) -> dict[str, float]:
        """The observation model at its slots; the size of each state that is observed."""
        joint, batch = self.joint, self.joint.batch
        time = (batch.time - batch.offset).gather(1, batch.slot_record).unsqueeze(0)
        sizes: dict[str, float] = {}
        for name, sl in batch.slices.items():
            if sl.start == sl.stop:
                continue
            valid = batch.slot_valid[:, sl] & (batch.cens[:, sl] == 0)
            x = {n: v[..., sl].clone().requires_grad_() for n, v in states.items()}
            here = Names("p", {k: gather_time(v, batch.slot_record[:, sl]) for k, v in p.items()})
            made = joint.model.observe(theta, here, Names("x", {**x, "time": time[..., sl]}))[name]
            if not isinstance(made, Gaussian):
                self._hear([], [], valid)
                continue
            y = made.scale(batch.y[:, sl])[valid]
            spread = float(y.std(correction=0)) if len(y) else 0.0
            # states are sized on the scale of the data: on that of their logarithm the smallest would decide
            of_data = _rms(batch.y[:, sl][valid])
            for state, value in x.items():
                for slope in _slopes(made.natural(made.mean), [value]):
                    effect = _rms(_counted(slope, valid))
                    if effect > 0:
                        sizes[state] = max(sizes.get(state, 0.0), of_data / effect)
            gap = (made.scale(batch.y[:, sl]) - made.mean.detach())[0][valid]
            pushes = {n: [_counted(g, valid) for g in _slopes(made.mean, net.pushes)] for n, net in self.silent.items()}
            driving = [n for n in self._hear([made.mean], [spread or _rms(y)], valid) if pushes[n]]
            for network in driving:
                self._shift(network, pushes[network], gap[torch.isfinite(gap)] / len(driving))
        return sizes

    def _shift(self, name: str, pushes: list[Tensor], gap: Tensor) -> None:
        """The constant that brings a network's predictions to the observations, where it is one of one output."""
        net = self.silent[name]
        slope = _rms(pushes[0]) if pushes else 0.0
        if net.outputs == 1 and slope > 0 and len(gap) and not POSITIVE.get(net.output_activation):
            sign = float(torch.sign(pushes[0].sum())) or 1.0
            self.shifts[name] = np.array([sign * float(gap.mean()) / slope])

    def _field(self, theta: Names, p: Names, states: dict[str, Tensor], observed: dict[str, float]) -> None:
        """The vector field at the slots."""
        joint, batch = self.joint, self.joint.batch
        if not batch.slot_record.shape[1]:
            return
        time = (batch.time - batch.offset).gather(1, batch.slot_record).unsqueeze(0)
        here = Names("p", {k: gather_time(v, batch.slot_record) for k, v in p.items()})
        compartments = joint.compartments
        x = torch.stack([states[n] for n in compartments], -1)
        rates = VectorField(joint.model.dynamics, theta, compartments)(here, time, x).unbind(-1)
        gap = _typical_gap(joint.population)
        sizes = [observed.get(n) or float(states[n].abs().nan_to_num(0.0).max()) for n in compartments]
        self._hear(rates, [s / gap for s in sizes], batch.slot_valid)


def _counted(value: Tensor, valid: Tensor) -> Tensor:
    """The entries [M, ...] of [1, R, T, ...] that are in the data; what is constant in time counts once."""
    if value.shape[2] == 1:
        valid = valid.any(1, keepdim=True)
    if value.shape[1] == 1:
        valid = valid.any(0, keepdim=True)
    return value[0][valid]


def _slopes(value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Derivative of a quantity in the leaves [1, R, T, ...], at every one of its own points; what depends on them.

    One leaf may have length 1 in time where the quantity varies. J'v is linear in v, and each entry of v belongs to one
    point: differentiating in v once more gives every point its slope.
    """
    if not value.requires_grad or not leaves:
        return []
    seed = torch.ones_like(value, requires_grad=True)
    found = torch.autograd.grad(value, leaves, seed, create_graph=True, allow_unused=True)
    out = []
    for g in found:
        if g is None:
            continue
        parts = g.unbind(-1) if g.dim() > value.dim() else (g,)
        each = [torch.autograd.grad(c.sum(), seed, retain_graph=True)[0].nan_to_num(0.0, 0.0, 0.0) for c in parts]
        out.append(torch.stack(each, -1) if g.dim() > value.dim() else each[0])
    return out


def _rms(value: Tensor) -> float:
    """Root of the mean square of the finite entries; 0 without any."""
    value = value[torch.isfinite(value)]
    return float(torch.sqrt((value * value).mean())) if value.numel() else 0.0


def _input_units(seen: list[Tensor], sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Center and scale of the inputs from what was seen; one of each for all inputs that are one vector's."""
    inputs = sum(sizes)
    center, scale = np.zeros(inputs), np.ones(inputs)
    if not seen:
        return center, scale
    x = torch.cat([s.reshape(-1, inputs) for s in seen]).numpy()
    ends = np.cumsum(sizes)
    for i in (slice(end - size, end) for end, size in zip(ends, sizes, strict=True)):
        values = x[:, i][np.isfinite(x[:, i])]
        largest = float(np.abs(values).max()) if len(values) else 0.0
        if largest > 0:
            spread = float(values.std())
            center[i], scale[i] = float(values.mean()), spread if spread > FLAT * largest else largest
    return center, scale


def _typical_gap(population: Population) -> float:
    """Median time between consecutive observations of a subject, or since its first record; 1 without any."""
    r, gaps, since = population.records, [], []
    for a, b in zip(population.starts[:-1], population.starts[1:], strict=True):
        time = r.time[a:b][r.observed[a:b]]
        gaps.append(np.diff(np.unique(time)))
        since.append(time - r.time[a])
    for found in (np.concatenate(gaps), np.concatenate(since)):
        if (found > 0).any():
            return float(np.median(found[found > 0]))
    return 1.0
