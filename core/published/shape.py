"""Shape of a published network, from its tensors and its YAML file.

Sizes are read off the tensors; the order of the irreps and what leaves no trace in tensors come
from the YAML file. Everything that both tell has to agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from e3nn.o3 import Irrep, Irreps

from hamgnn_solve.core.basis.openmx_table import TABLE_SHELLS
from hamgnn_solve.core.errors import InputError
from hamgnn_solve.core.io.checkpoint import Checkpoint
from hamgnn_solve.core.network.config import NetworkConfig
from hamgnn_solve.core.network.irreps import dimension, natural_parity
from hamgnn_solve.core.network.linear import gate_irreps
from hamgnn_solve.core.network.shells import ShellTable
from hamgnn_solve.core.published.settings import Settings
from hamgnn_solve.core.published.signs import check_product_constants, has_sign_flips

__all__ = ["published_config"]

# Tensors that belong to networks which are not supported, and what these are.
UNSUPPORTED_TENSORS = {
    "delta_": "a delta-learning predictor",
    "emb.emb_q": "a doping charge",
    "charge_embedding": "a doping charge",
    "ksi_": "spin-orbit coupling",
    "onsitenet_s": "a predicted overlap",
    "onsite_overlap": "a predicted overlap",
    "orb_transformers": "the transformer network",
    "corr_product": "the many-body product block",
    "linear_pre": "the many-body product block",
}

# Irreps of V1 that have to be the same throughout.
IRREPS_KEYS = (
    "irreps_node_features",
    "feature_irreps_hidden",
    "irreps_node_output",
    "irreps_edge_output",
)


@dataclass(frozen=True)
class _Layout:
    """Names of the tensors that tell the sizes of one version, and of its YAML entries."""

    version: int
    layers: str
    radial: str
    square: str
    residual: str
    head: str
    layers_key: str


LAYOUTS = (
    _Layout(
        version=1,
        layers="representation.convnet.",
        radial="representation.convnet.0.conv.fc.layer",
        square="representation.conv_to_output_node.linear.weight",
        residual="output_module.onsitenet_residual.linear1.weight",
        head="output_module.onsitenet_linear.weight",
        layers_key="num_interaction_layers",
    ),
    _Layout(
        version=2,
        layers="representation.convolutions.",
        radial="representation.convolutions.0.conv_tp.node_weight_generator.layer",
        square="representation.convolutions.0.conv_tp.node_linear_out.weight",
        residual="output_module.onsite_hamiltonian_network.residual_block.linear1.weight",
        head="output_module.onsite_hamiltonian_network.linear_transform.weight",
        layers_key="num_layers",
    ),
)

EMBEDDING = "representation.chemical_embedding.linear."
ELEMENT_TABLE = "representation.emb.emb.weight"
EDGE_PRODUCT = "representation.conv_to_output_edge_tp."
SKIP = "representation.pair_interactions.0.skip_linear.weight"


def published_config(checkpoint: Checkpoint, settings: Settings) -> NetworkConfig:
    """Deduce the shape of a network.

    Parameters
    ----------
    checkpoint : Checkpoint
        Tensors under the names of HamGNN 1 or 2.1.
    settings : Settings
        YAML file that the weights were trained with.

    Raises
    ------
    InputError
        When the network is not supported, a tensor or an entry is missing, or the two disagree.
    """
    settings.check_supported()
    _check_tensors(checkpoint)
    layout = _layout(checkpoint)
    check_product_constants(checkpoint)
    deduction = _Deduction(checkpoint, settings, layout)
    irreps = deduction.irreps()
    attributes, num_types = deduction.attributes(irreps)
    num_radial, invariant_layers, invariant_neurons = deduction.radial()
    cutoff = deduction.cutoff(num_radial)
    norbitals = deduction.norbitals(irreps)
    shells = TABLE_SHELLS[norbitals]
    legacy = layout.version == 2 and SKIP not in checkpoint.tensors
    if layout.version == 2:
        deduction.agree("legacy_edge_update", legacy)
    return NetworkConfig(
        irreps=str(irreps),
        shells=shells,
        layers=deduction.layers(),
        cutoff=cutoff,
        num_radial=num_radial,
        invariant_layers=invariant_layers,
        invariant_neurons=invariant_neurons,
        num_types=num_types,
        lmax=deduction.lmax(irreps),
        nonlinearity=deduction.nonlinearity(irreps),
        attributes=attributes,
        edge_tp_irreps=deduction.edge_product(irreps),
        resnet=layout.version == 2 or settings.flag("resnet"),
        add_h0=settings.flag("add_H0"),
        symmetrize=settings.flag("symmetrize"),
        sign_flips=has_sign_flips(checkpoint, layout.version, len(shells) - 1),
        version=layout.version,
        legacy_edge_update=legacy,
    )


@dataclass(frozen=True)
class _Deduction:
    """Sizes of a network, each read off the tensors and compared with the YAML file."""

    checkpoint: Checkpoint
    settings: Settings
    layout: _Layout

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor that has to be there."""
        if name not in self.checkpoint.tensors:
            raise InputError(
                f"The checkpoint {self.checkpoint.path} has no tensor {name}, which a network of "
                f"HamGNN {self.layout.version} needs; give the file that training wrote."
            )
        return tuple(self.checkpoint.tensors[name].shape)

    def matrix(self, name: str) -> tuple[int, int]:
        """Return the shape of a tensor that has to have two dimensions."""
        shape = self.shape(name)
        if len(shape) != 2:
            raise InputError(
                f"Tensor {name} of {self.checkpoint.path} has shape {shape}, not two dimensions; "
                "give the file that training wrote."
            )
        return shape[0], shape[1]

    def numel(self, name: str) -> int:
        return math.prod(self.shape(name))

    def agree(self, key: str, found: object) -> None:
        """Refuse a YAML entry that is not what the tensors say; it may be absent."""
        said = self.settings.entries.get(key)
        if said is not None and said != found:
            self.disagree(key, said, found)

    def disagree(self, key: str, said: object, found: object) -> None:
        raise InputError(
            f"{key} is {said} in {self.settings.path}, but the tensors of {self.checkpoint.path} "
            f"say {found}; give the configuration that these weights were trained with."
        )

    def irreps(self) -> Irreps:
        irreps = self.settings.irreps("irreps_node_features")
        if self.layout.version == 1:
            for key in IRREPS_KEYS:
                if key in self.settings.entries and self.settings.irreps(key) != irreps:
                    raise InputError(
                        f"{key} and irreps_node_features of {self.settings.path} differ, which "
                        "this version does not support; choose another checkpoint."
                    )
        wanted, found = sum(mul**2 for mul, _ in irreps), self.numel(self.layout.square)
        if wanted != found:
            said = f"{irreps} (a square linear map of {wanted} weights)"
            self.disagree("irreps_node_features", said, f"{found} weights")
        self._check_order(irreps)
        return irreps

    def _check_order(self, irreps: Irreps) -> None:
        """Compare the place of the even scalars, the only one that tensors show."""
        mask = self.checkpoint.tensors.get(f"{EMBEDDING}output_mask")
        if mask is None:
            return
        parts = [torch.full((mul * irrep.dim,), irrep == Irrep(0, 1)) for mul, irrep in irreps]
        if mask.numel() != dimension(irreps) or not torch.equal(mask.bool(), torch.cat(parts)):
            places = mask.nonzero().flatten()
            found = f"0e at {int(places[0])}..{int(places[-1])}" if len(places) else "no 0e"
            self.disagree("irreps_node_features", irreps, f"{found} of {mask.numel()} components")

    def attributes(self, irreps: Irreps) -> tuple[int | None, int]:
        """Return the length of learned attributes, if any, and the number of types."""
        scalars = sum(mul for mul, irrep in irreps if irrep == Irrep(0, 1))
        if not scalars:
            raise InputError(
                f"irreps_node_features of {self.settings.path} have no 0e, which elements are "
                "embedded in; mend the file."
            )
        length, remainder = divmod(self.numel(f"{EMBEDDING}weight"), scalars)
        if remainder:
            numel = self.numel(f"{EMBEDDING}weight")
            self.disagree("irreps_node_features", irreps, f"an embedding of {numel} weights for 0e")
        if self.layout.version == 2:
            self.agree("num_types", length)
            return None, length
        learned = ELEMENT_TABLE in self.checkpoint.tensors
        said, found = self.settings.network, "HamGNN_pre2" if learned else "HamGNN_pre"
        if said != found:
            self.disagree("setup.GNN_Net", said, found)
        if not learned:
            self.agree("num_types", length)
            return None, length
        rows, columns = self.matrix(ELEMENT_TABLE)
        self.agree("num_node_attr_feas", columns)
        return columns, rows

    @property
    def radial_depth(self) -> int:
        """Number of weight matrices of a radial perceptron."""
        depth = 0
        while f"{self.layout.radial}{depth}.weight" in self.checkpoint.tensors:
            depth += 1
        return depth

    def radial(self) -> tuple[int, int, int]:
        """Return inputs, hidden layers and hidden width of the radial perceptrons."""
        depth = self.radial_depth
        inputs, neurons = self.matrix(f"{self.layout.radial}0.weight")
        self.agree("num_radial", inputs)
        hidden = [self.matrix(f"{self.layout.radial}{n}.weight")[1] for n in range(depth - 1)]
        if self.layout.version == 1:
            self.agree("invariant_layers", depth - 1)
            self.agree("invariant_neurons", neurons)
        else:
            self.agree("radial_MLP", hidden)
        if depth < 2 or set(hidden) != {neurons}:
            raise InputError(
                f"The radial perceptrons of {self.checkpoint.path} have hidden layers of widths "
                f"{hidden}; this version supports equal ones."
            )
        return inputs, depth - 1, neurons

    def cutoff(self, num_radial: int) -> float:
        if not str(self.settings["cutoff_func"]).startswith("c"):
            raise InputError(
                f"cutoff_func {self.settings['cutoff_func']} of {self.settings.path} is not "
                "supported; this version knows the cosine (cos)."
            )
        tensors = self.checkpoint.tensors
        found = [x.flatten() for key, x in tensors.items() if key.endswith(".cutoff")]
        radii = set(torch.cat(found).tolist()) if found else set()
        if len(radii) != 1:
            raise InputError(
                f"The checkpoint {self.checkpoint.path} has {len(radii)} cutoff radii, not one; "
                "only networks with the cosine cutoff are supported."
            )
        radius = float(radii.pop())
        said = self.settings["cutoff"]
        # The buffer is in single precision.
        if not isinstance(said, int | float) or not math.isclose(said, radius, rel_tol=1e-6):
            self.disagree("cutoff", said, radius)
        waves = torch.arange(1, num_radial + 1, dtype=torch.float64) * (math.pi / radius)
        for key, tensor in tensors.items():
            if key.endswith(".freqs") and not (
                tensor.shape == waves.shape and torch.allclose(tensor.double(), waves, rtol=1e-5)
            ):
                raise InputError(
                    f"Tensor {key} of {self.checkpoint.path} is not n pi / cutoff; radial "
                    "functions with trained frequencies are not supported."
                )
        return radius

    def layers(self) -> int:
        numbers = {
            key.removeprefix(self.layout.layers).partition(".")[0]
            for key in self.checkpoint.tensors
            if key.startswith(self.layout.layers)
        }
        self.agree(self.layout.layers_key, len(numbers))
        return len(numbers)

    def lmax(self, irreps: Irreps) -> int:
        harmonics = self.settings.irreps("irreps_edge_sh")
        lmax = len(harmonics) - 1
        natural = Irreps([(1, (degree, natural_parity(degree))) for degree in range(lmax + 1)])
        if harmonics != natural:
            raise InputError(
                f"irreps_edge_sh {harmonics} of {self.settings.path} is not supported; it has to "
                f"be {natural}."
            )
        found = self.matrix(f"{self.layout.radial}{self.radial_depth - 1}.weight")[1]
        wanted = _product_weights(irreps, lmax)
        if wanted != found:
            said = f"{harmonics} ({wanted} weights a pair)"
            self.disagree("irreps_edge_sh", said, f"{found} weights a pair")
        return lmax

    def nonlinearity(self, irreps: Irreps) -> str:
        gates = {irrep: mul for mul, irrep in gate_irreps(irreps)}
        numel = self.numel(self.layout.residual)
        sizes = {
            sum(mul**2 for mul, _ in irreps): "norm",
            sum(mul * gates[irrep] for mul, irrep in irreps): "gate",
        }
        if numel not in sizes:
            self.disagree("irreps_node_features", irreps, f"a residual block of {numel} weights")
        self.agree("nonlinearity_type", sizes[numel])
        return sizes[numel]

    def norbitals(self, irreps: Irreps) -> int:
        """Return the number of orbitals of the block table, `nao_max`."""
        channels = {irrep: mul for mul, irrep in irreps}
        sizes = {
            sum(channels.get(irrep, 0) for _, irrep in ShellTable(shells).irreps): norbitals
            for norbitals, shells in TABLE_SHELLS.items()
        }
        numel = self.numel(self.layout.head)
        if numel not in sizes:
            raise InputError(
                f"The block map of {self.checkpoint.path} has {numel} weights, which is that of "
                f"no supported table (nao_max {', '.join(map(str, TABLE_SHELLS))}; this "
                f"configuration says {self.settings.entries.get('nao_max')})."
            )
        self.agree("nao_max", sizes[numel])
        return sizes[numel]

    def edge_product(self, irreps: Irreps) -> str | None:
        """Return the irreps of the node-node product of pre2, None without it."""
        found = f"{EDGE_PRODUCT}linear_node_dst.weight" in self.checkpoint.tensors
        if self.layout.version == 2:
            return None
        if ELEMENT_TABLE in self.checkpoint.tensors:
            self.agree("add_edge_tp", found)
        if not found:
            return None
        previous = self.settings.irreps("irreps_node_prev")
        channels = {irrep: mul for mul, irrep in irreps}
        wanted = sum(mul * channels.get(irrep, 0) for mul, irrep in previous)
        numel = self.numel(f"{EDGE_PRODUCT}linear_node_dst.weight")
        if wanted != numel:
            said = f"{previous} ({wanted} weights)"
            self.disagree("irreps_node_prev", said, f"{numel} weights")
        return str(previous)


def _check_tensors(checkpoint: Checkpoint) -> None:
    for key in checkpoint.tensors:
        for part, what in UNSUPPORTED_TENSORS.items():
            if part in key:
                raise InputError(
                    f"The checkpoint {checkpoint.path} has {what} (tensor {key}), which this "
                    "version does not support; choose another checkpoint."
                )


def _layout(checkpoint: Checkpoint) -> _Layout:
    for layout in LAYOUTS:
        if any(key.startswith(layout.layers) for key in checkpoint.tensors):
            return layout
    raise InputError(
        f"The tensors of {checkpoint.path} are not those of a HamGNN network (there is no "
        f"{LAYOUTS[0].layers}* and no {LAYOUTS[1].layers}*); give the file that training wrote."
    )


def _product_weights(irreps: Irreps, lmax: int) -> int:
    """Return the number of weights of the product with harmonics up to lmax.

    One weight for each channel and path; paths that end in 0e count even without a 0e entry, since
    the gates need them.
    """
    targets = {irrep for _, irrep in irreps} | {Irrep(0, 1)}
    return sum(
        mul
        for mul, irrep in irreps
        for degree in range(lmax + 1)
        for target in irrep * Irrep(degree, natural_parity(degree))
        if target in targets
    )
