"""Shape of a network."""

from __future__ import annotations

from dataclasses import dataclass

from hamgnn_solve.core.network.irreps import parse_irreps

__all__ = ["NetworkConfig"]


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of a HamGNN V1 network.

    Parameters
    ----------
    irreps : str
        Irreps of node and edge features; each irrep once.
    shells : tuple of int
        Number of orbital shells of the block table for l = 0, 1, 2, ...
    layers : int
        Number of convolutions.
    cutoff : float
        Radius of the radial functions in Bohr; the network adds nothing to pairs beyond it.
    num_radial : int
        Number of radial functions.
    invariant_layers, invariant_neurons : int
        Hidden layers of the radial perceptron and their width.
    num_types : int
        Number of element types (length of the one-hot attribute, rows of the element table).
    lmax : int
        Highest degree of the spherical harmonics.
    nonlinearity : {"norm", "gate"}
        Nonlinearity of the output residual blocks.
    attributes : int or None
        Length of learned element attributes (HamGNN_pre2); None for one-hot (HamGNN_pre).
    edge_tp_irreps : str or None
        Irreps of the first atom's features in the node-node product of pre2; None without it.
    resnet : bool
        Add a layer's input to its output (only where the irreps agree: scalars first).
    add_h0 : bool
        The network predicts H - H0.
    symmetrize : bool
        Average each block with the transpose of its reverse.
    sign_flips : bool
        Use the Clebsch-Gordan signs of published V1 weights.
    message_cutoff : float or None
        Radius in Bohr of the convolutions' radial functions; pairs beyond it send nothing. None
        for `cutoff`, as published.
    cutoff_power : int
        Power of the cosine envelope in the radial functions; 2 as published.
    pair_radial : bool
        First layer of each radial perceptron depends on the ordered pair of elements.
    envelope : bool
        Off-site elements are multiplied by the squared cosine envelope that ends where the two
        orbitals cease to overlap.
    reference_radial : int
        Number of radial functions of a fitted two-centre reference that the network's output is
        added to; 0 for none.
    reference_cutoff : float or None
        Radius in Bohr of the off-site reference; None for `cutoff`.
    onsite_only : bool
        Version 1: the network predicts blocks of atoms and none of pairs; no reference.
    version : {1, 2}
        Published program that the network follows: 1 is `HamGNN_pre` and `HamGNN_pre2`, 2 is
        `HamGNNConvE3`.
    legacy_edge_update : bool
        Version 2: the first layer leaves the features of pairs as they are, as in weights of
        HamGNN 2.0.
    """

    irreps: str
    shells: tuple[int, ...]
    layers: int
    cutoff: float
    num_radial: int
    invariant_layers: int
    invariant_neurons: int
    num_types: int
    lmax: int
    nonlinearity: str = "norm"
    attributes: int | None = None
    edge_tp_irreps: str | None = None
    resnet: bool = True
    add_h0: bool = False
    symmetrize: bool = True
    sign_flips: bool = False
    message_cutoff: float | None = None
    cutoff_power: int = 2
    pair_radial: bool = False
    envelope: bool = False
    reference_radial: int = 0
    reference_cutoff: float | None = None
    onsite_only: bool = False
    version: int = 1
    legacy_edge_update: bool = False

    def __post_init__(self) -> None:
        parse_irreps(self.irreps)
        if self.nonlinearity not in ("norm", "gate"):
            raise ValueError(f"nonlinearity {self.nonlinearity!r} must be 'norm' or 'gate'")
        if self.message_cutoff is not None and not 0 < self.message_cutoff <= self.cutoff:
            raise ValueError(f"message_cutoff {self.message_cutoff} must lie in (0, {self.cutoff}]")
        if min(self.layers, self.num_radial, self.invariant_neurons, self.num_types) < 1:
            raise ValueError("layers, num_radial, invariant_neurons and num_types must be positive")
        if self.onsite_only and (
            self.version != 1 or self.add_h0 or self.envelope or self.reference_radial
        ):
            raise ValueError(
                "onsite_only is for version 1 without add_h0, envelope and reference_radial"
            )
        if self.cutoff_power < 1:
            raise ValueError("cutoff_power must be at least 1: messages have to end smoothly")

    @property
    def message_radius(self) -> float:
        """Radius of the convolutions in Bohr."""
        return self.cutoff if self.message_cutoff is None else self.message_cutoff

    @property
    def reference_radius(self) -> float:
        """Radius of the off-site reference in Bohr."""
        return self.cutoff if self.reference_cutoff is None else self.reference_cutoff

    def radial_sizes(self, outputs: int) -> list[int]:
        """Widths of a radial perceptron with this many outputs."""
        return [self.num_radial, *[self.invariant_neurons] * self.invariant_layers, outputs]

    @property
    def radial_kinds(self) -> int:
        """Number of kinds of pairs that radial perceptrons tell apart."""
        return self.num_types**2 if self.pair_radial else 1
