"""Networks with weights of their own in a run: written as safetensors, and read back into the same architecture."""

from hashlib import file_digest

import torch
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Plan
from nasdeploy.core.space import SearchSpace
from nasdeploy.nn.network import Network
from nasdeploy.store.files import replacing_directory, write_json
from nasdeploy.store.networks import (
    RECORD,
    REMEDY,
    WEIGHTS,
    KeptNetwork,
    KeptNetworkRecord,
    NetworkFacts,
    network_directory,
)
from nasdeploy.store.run import Run
from nasdeploy.supernet.archives import UnreadableArchive
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.supernet.tensor_files import read_tensors, write_tensors
from nasdeploy.supernet.weights import uncomputable


def keep_network(run: Run, arch: Arch, network: Network, facts: NetworkFacts) -> KeptNetwork:
    """Write a network with its running statistics into a run, in place of an earlier one of its kind.

    Weights and record appear together, or not at all. Raises `UserError` for weights that nothing can be computed with,
    and where the run is used by another process or cannot be written.
    """
    state = network.state_dict()
    directory = network_directory(run, facts.kind, arch.digest)
    if (defect := uncomputable(state)) is not None:
        raise UserError(f"{directory}: network {arch.digest} is not kept, its weights are broken: {defect}")
    with run.lock():
        run.require_there()
        with replacing_directory(directory) as partial:
            write_tensors(partial / WEIGHTS, state)
            with (partial / WEIGHTS).open("rb") as file:
                sha256 = file_digest(file, "sha256").hexdigest()
            stated = facts.model_dump(mode="json")
            record = KeptNetworkRecord(**stated, digest=arch.digest, arch=arch.to_json(), sha256=sha256)
            write_json(partial / RECORD, record.model_dump(mode="json"))
    return KeptNetwork(directory, record)


def load_network(kept: KeptNetwork, space: SearchSpace) -> Network:
    """Return a kept network with its weights and running statistics, in evaluation mode on the CPU.

    Raises `UserError` if its files are damaged, not those that were written, or of another space.
    """
    kept.require_whole()
    plan = space.plan(kept.arch(space))
    try:
        state = read_tensors(kept.weights).tensors
    except (UnreadableArchive, OSError):
        raise UserError(f"{kept.weights}: damaged, or no safetensors; {REMEDY}") from None
    network = _empty(plan)
    if (difference := _difference(network, state)) is not None:
        raise UserError(f"{kept.weights}: does not fit its architecture, {difference}; {REMEDY}")
    if (defect := uncomputable(state)) is not None:
        raise UserError(f"{kept.weights}: no weights to compute with: {defect}; {REMEDY}")
    network.to_empty(device="cpu")
    network.load_state_dict(state)
    return network.eval()


def copied(network: Network) -> Network:
    """Return a network of the same plan with copies of the weights, where they are and in the same mode."""
    first = next(network.parameters())
    copy = _empty(network.plan).to(first.dtype).to_empty(device=first.device)
    copy.load_state_dict(network.state_dict())
    return copy.train(network.training)


def _empty(plan: Plan) -> Network:
    """Return a network without memory for its tensors."""
    with torch.device("meta"):
        return Network(plan)


def _difference(network: Network, state: dict[str, Tensor]) -> str | None:
    """Return the first way in which a state dict differs from that of a network; None if it fits."""
    wanted = network.state_dict()
    for name in sorted(wanted.keys() | state.keys()):
        if name not in state:
            return f"{name} is missing"
        if name not in wanted:
            return f"{name} is none of its tensors"
        own, given = wanted[name], state[name]
        if (own.shape, own.dtype) != (given.shape, given.dtype):
            return f"{name} is {given.dtype} {list(given.shape)}, not {own.dtype} {list(own.shape)}"
    return None


def inherit(supernet: Supernet, network: Network) -> None:
    """Give a supernet whose only architecture is that of `network` (`FixedSpace`) all of the network's weights."""
    for slot, weights in supernet.weights.items():
        weights.load_state_dict(network.block(slot).weights.state_dict())
