"""One network trained further alone: what it begins with and learns from, how it resumes, and what is kept of it."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import nasdeploy as nd
from nasdeploy.cli.export import export
from nasdeploy.cli.main import main
from nasdeploy.core.arch import Arch
from nasdeploy.core.progress import Progress, Work
from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.proof import ExportTarget
from nasdeploy.nn.network import Network
from nasdeploy.recipe import recipe_of, space_of
from nasdeploy.store.checkpoints import trained_weights
from nasdeploy.store.files import write_json
from nasdeploy.store.networks import (
    KeptNetwork,
    NetworkFacts,
    OwnWeights,
    finetune_directory,
    finetune_record,
    kept_network,
    kept_original,
    own_network,
)
from nasdeploy.store.run import Run
from nasdeploy.supernet.networks import keep_network, load_network
from nasdeploy.supernet.supernet import extract
from nasdeploy.supernet.weights import load_supernet
from nasdeploy.workflows import train as step
from nasdeploy.workflows.evaluator import open_evaluator
from nasdeploy.workflows.finetune import DEFAULT_EPOCHS, FinetuneRequest, request_finetune
from nasdeploy.workflows.run import run_all
from tests.exporting.models import QUICK
from tests.searching import results
from tests.training.recipes import tiny_recipe

QUIET = Progress(quiet=True)
EPOCHS = {"finetune.epochs": 2}
STEPS = 4
"""The steps of an epoch."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained") / "tiny"
    step.train(tiny_recipe("train.epochs=6", "train.checkpoint_steps=2"), directory, QUIET)
    return directory


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "runs/tiny")
    return Run.open(Path("runs/tiny"))


def arch_of(run: Run, which: str = "smallest") -> Arch:
    space = space_of(run)
    return space.smallest() if which == "smallest" else space.largest()


def inherited(run: Run, arch: Arch) -> Network:
    return extract(load_supernet(trained_weights(run).path, space_of(run)), arch)


def with_original(run: Run) -> KeptNetwork:
    """Keep an original that knows more than the supernet's largest network: one that was trained further."""
    largest = arch_of(run, "largest")
    facts = NetworkFacts(kind="original", epochs=6, checkpoint=trained_weights(run).facts)
    torch.manual_seed(1)
    network = inherited(run, largest)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return keep_network(run, largest, network, facts)


def kept_of(run: Run, arch: Arch) -> Network:
    kept = kept_network(run, "finetuned", arch.digest)
    assert kept is not None
    return load_network(kept, space_of(run))


def learned(network: Network) -> dict[str, torch.Tensor]:
    return dict(network.named_parameters())


def same(a: Network, b: Network) -> bool:
    return all(torch.equal(value, learned(b)[name]) for name, value in learned(a).items())


def test_the_network_is_kept_with_its_scores_and_delivered(run: Run) -> None:
    arch = arch_of(run)
    found = nd.finetune(run, arch, changes={"finetune.epochs": 20, "finetune.learning_rate": 5e-3})
    space, recipe = space_of(run), recipe_of(run)
    scoring = open_evaluator(run, recipe, space, trained_weights(run).path)
    assert found.record.before.score(found.metric) == scoring(arch)
    assert found.record.kept
    network = kept_of(run, arch)
    assert found.record.after.score(found.metric) == scoring.having({arch: network})(arch)
    assert found.record.after.value > found.record.before.value + 0.1
    own = own_network(run, arch)
    assert own is not None
    assert (own.record.kind, own.record.epochs, own.record.inherited) == ("finetuned", 20, "supernet")
    assert (own.record.before, own.record.after) == (found.record.before, found.record.after)
    assert own.record.checkpoint == trained_weights(run).facts
    after, before = (found.metric.text(one.value) for one in (found.record.after, found.record.before))
    assert found.text == (
        f"{arch.digest} fine-tuned for 20 epochs: top-1 on {found.record.after.samples} held-out images {after}, "
        f"before {before}"
    )


def test_steps_that_change_nothing_leave_the_inherited_network_bit_for_bit(run: Run) -> None:
    arch = arch_of(run)
    still = {**EPOCHS, "finetune.learning_rate": 1e-30, "finetune.weight_decay": 0.0}
    found = nd.finetune(run, arch, changes=still)
    assert found.record.after == found.record.before
    assert same(kept_of(run, arch), inherited(run, arch))


class Interrupting(Progress):
    """Stops the process's work after so many steps of training."""

    def __init__(self, steps: int) -> None:
        super().__init__(quiet=True)
        self._steps = steps

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, table: object = None) -> Iterator[Work]:
        def show(done: int, note: str) -> None:
            if name == "train" and done == self._steps:
                raise KeyboardInterrupt

        yield Work(done, show)


@pytest.mark.slow
@pytest.mark.parametrize("original", [False, True])
def test_one_that_was_stopped_resumes_and_ends_in_the_same_weights(original: bool, run: Run, tmp_path: Path) -> None:
    if original:
        with_original(run)
    shutil.copytree(run.path, tmp_path / "other")
    arch = arch_of(run)
    nd.finetune(tmp_path / "other", arch, changes=EPOCHS)
    undisturbed = kept_of(Run.open(tmp_path / "other"), arch)
    for stop in (3, STEPS + 1):
        with pytest.raises(KeyboardInterrupt):
            nd.finetune(run, arch, changes=EPOCHS, progress=Interrupting(stop))
        assert finetune_record(run, arch.digest) is None
        assert own_network(run, arch) is None
    nd.finetune(run, arch, changes=EPOCHS)
    assert same(kept_of(run, arch), undisturbed)
    assert not same(undisturbed, inherited(run, arch))


def test_a_finished_one_is_refused_with_the_ways_out_and_done_anew_by_restart(run: Run) -> None:
    arch = arch_of(run)
    found = nd.finetune(run, arch, changes=EPOCHS)
    first = kept_of(run, arch)
    with pytest.raises(nd.UserError) as caught:
        nd.finetune(run, arch, changes=EPOCHS)
    assert str(caught.value) == (
        f"{finetune_directory(run, arch.digest)}: {found.text}; it is finished: go on with `nd.export()`, or train it "
        "anew with `restart=True`"
    )
    with pytest.raises(nd.UserError, match=r"begun with other settings \(train.epochs differs\)"):
        nd.finetune(run, arch, changes={"finetune.epochs": 3})
    nd.finetune(run, arch, changes={"finetune.epochs": 1}, restart=True)
    assert not same(kept_of(run, arch), first)
    assert nd.finetune(run, arch, changes=EPOCHS, restart=True).record == found.record
    assert same(kept_of(run, arch), first)


def test_lost_weights_are_trained_again(run: Run) -> None:
    arch = arch_of(run)
    nd.finetune(run, arch, changes=EPOCHS)
    first, kept = kept_of(run, arch), own_network(run, arch)
    assert kept is not None
    shutil.rmtree(kept.path)
    nd.finetune(run, arch, changes=EPOCHS)
    assert same(kept_of(run, arch), first)


def test_what_is_finished_leaves_no_checkpoints(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    arch = arch_of(run)
    tuned = finetune_directory(run, arch.digest)

    def killed(place: Run) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nasdeploy.workflows.finetune._remove_checkpoints", killed)
        with pytest.raises(KeyboardInterrupt):
            nd.finetune(run, arch, changes=EPOCHS)
    first, kept = kept_of(run, arch), own_network(run, arch)
    assert kept is not None
    # While they are there, the network is read from them.
    shutil.rmtree(kept.path)
    nd.finetune(run, arch, changes=EPOCHS, progress=Interrupting(1))
    assert same(kept_of(run, arch), first)
    assert not (tuned / "checkpoints").exists()
    assert {path.name for path in tuned.iterdir()} >= {"manifest.json", "metrics.jsonl", "finetune.json"}
    (tuned / "checkpoints").mkdir()
    with pytest.raises(nd.UserError, match="it is finished: go on with"):
        nd.finetune(run, arch, changes=EPOCHS)
    assert not (tuned / "checkpoints").exists()


def test_one_that_became_worse_is_told_and_not_kept(run: Run) -> None:
    arch = arch_of(run)
    found = nd.finetune(run, arch, changes={"finetune.epochs": 1, "finetune.learning_rate": 3.0})
    assert found.record.after.value < found.record.before.value
    assert not found.record.kept
    assert found.text.endswith("; that is worse, so the inherited weights stay")
    assert own_network(run, arch) is None
    with pytest.raises(nd.UserError, match="so the inherited weights stay; it is finished"):
        nd.finetune(run, arch, changes={"finetune.epochs": 1, "finetune.learning_rate": 3.0})


@pytest.mark.slow
def test_the_original_teaches_unless_the_recipe_says_otherwise(run: Run) -> None:
    arch, networks = arch_of(run), []
    with_original(run)
    for teacher in ("original", "none"):
        nd.finetune(run, arch, changes={**EPOCHS, "finetune.teacher": teacher}, restart=True)
        networks.append(kept_of(run, arch))
    shutil.rmtree(run.path / "networks")
    nd.finetune(run, arch, changes=EPOCHS, restart=True)
    by_labels = kept_of(run, arch)
    assert same(networks[1], by_labels)
    assert not same(networks[0], by_labels)


def test_the_original_goes_on_from_its_own_weights(run: Run) -> None:
    original = with_original(run)
    arch = arch_of(run, "largest")
    found = nd.finetune(run, arch, changes={"finetune.learning_rate": 1e-30, "finetune.weight_decay": 0.0})
    assert found.record.epochs == DEFAULT_EPOCHS
    assert same(kept_of(run, arch), load_network(original, space_of(run)))
    own = own_network(run, arch)
    assert own is not None
    assert (own.record.kind, own.record.inherited) == ("finetuned", "original")
    assert kept_network(run, "original", arch.digest) == original


def test_the_winner_of_the_latest_search_by_default(run: Run) -> None:
    arch, space = arch_of(run), space_of(run)
    with pytest.raises(nd.UserError, match="no search result yet"):
        request_finetune(run, recipe_of(run), None, QUIET)
    found = results.found(arch.digest, arch.to_json())
    result = results.result(found, results.at_most(1.0, "cpu"), space=space.digest)
    write_json(run.search_result, result.model_dump(mode="json"))
    assert request_finetune(run, recipe_of(run), None, QUIET).arch == arch


def test_damaged_records_are_refused_in_one_line(run: Run) -> None:
    arch = arch_of(run)
    nd.finetune(run, arch, changes=EPOCHS)
    directory = finetune_directory(run, arch.digest)
    for name, said in (("finetune.json", "restore it, or fine-tune anew with `restart=True`"), ("manifest.json", "")):
        whole = (directory / name).read_bytes()
        for content in (b"", b"[]", b'{"kept": true}', b"\x80\x04N."):
            (directory / name).write_bytes(content)
            with pytest.raises(nd.UserError) as caught:
                nd.finetune(run, arch, changes=EPOCHS)
            assert str(caught.value).startswith(f"{directory / name}: ")
            assert said in str(caught.value)
            assert "\n" not in str(caught.value)
        (directory / name).write_bytes(whole)
    (directory / "manifest.json").write_bytes(b"")
    assert nd.finetune(run, arch, changes=EPOCHS, restart=True).record.kept


def typed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["nasdeploy", "finetune", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_the_command(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--arch", "smallest", "--epochs", "1"]
    assert typed(monkeypatch, *arguments, "--json") == 0
    shown = capsys.readouterr()
    result: dict[str, Any] = json.loads(shown.out)
    digest = arch_of(run).digest
    assert (result["run"], result["digest"], result["epochs"]) == ("runs/tiny", digest, 1)
    assert result["kept"] == (result["after"]["value"] >= result["before"]["value"])
    assert f"finetune: runs/tiny, {digest} by the labels, epochs: 1; top-1 before " in shown.err
    assert typed(monkeypatch, *arguments) == 2
    assert "it is finished: go on with 'nasdeploy export', or train it anew with --restart" in capsys.readouterr().err
    assert typed(monkeypatch, *arguments, "--epochs", "2") == 2
    assert "give those, or fine-tune anew with 'nasdeploy finetune --restart'" in capsys.readouterr().err
    assert typed(monkeypatch, "--arch", "smallest", "--set", "finetune.epoch=3") == 2
    assert "unknown key 'finetune.epoch'; did you mean 'epochs'?" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert typed(monkeypatch, *arguments) == 2
    assert "a network is fine-tuned by one process; leave torchrun out" in capsys.readouterr().err


def test_settings_of_the_supernet_that_suit_the_machine_hold(run: Run) -> None:
    recipe = recipe_of(run, ["finetune.batch_size=20"])
    request = FinetuneRequest(run, recipe, space_of(run), arch_of(run), trained_weights(run))
    settings = request.settings
    assert (settings.threads, settings.checkpoint_steps, settings.batch_size) == (1, 2, 20)
    assert (settings.optimizer, settings.decay, settings.distillation.kind) == ("adamw", "cosine", "none")
    with_original(run)
    taught = FinetuneRequest(run, recipe, space_of(run), arch_of(run), trained_weights(run)).settings.distillation
    assert (taught.kind, taught.temperature, taught.beta) == ("kl", 2.0, 0.5)


WHOLE_WAY = tiny_recipe(
    "train={batch_size: 25, threads: 1, phases: ["
    "{name: original, epochs: 4, sampling: {kind: largest}, distillation: {kind: none}, optimizer: adamw, "
    "learning_rate: 0.03, warmup_epochs: 0}, "
    "{name: elastic, epochs: 1, distillation: {kind: kl, teacher: original}, optimizer: adamw, learning_rate: 0.003, "
    "warmup_epochs: 0}]}",
    "search={rounds: 1, parents: 4, mutations: 2, crossovers: 2}",
    "finetune={epochs: 10, learning_rate: 0.01}",
)


@pytest.mark.slow
def test_the_whole_way_trains_the_winner_with_the_original_before_it_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nasdeploy.exporting.proof.ExportTarget", partial(ExportTarget, protocol=QUICK))
    asked = {"macs": ("0.05",)}
    product = run_all(WHOLE_WAY, Path("runs/tiny"), asked, Progress())
    original, winner = kept_original(product.run), product.result.winner
    assert original is not None
    assert winner.digest != original.record.digest
    said = capsys.readouterr().err
    assert f"finetune: runs/tiny, {winner.digest} with the original as teacher, epochs: 10; top-1 before " in said
    record = finetune_record(product.run, winner.digest)
    assert record is not None
    assert record.kept
    own = product.manifest.origin.own
    assert own is not None
    assert (own.kind, own.epochs, own.after) == ("finetuned", 10, record.after)
    again = run_all(WHOLE_WAY, Path("runs/tiny"), asked, Progress())
    assert again.manifest == product.manifest
    said = capsys.readouterr().err
    assert f"finetune: {winner.digest} fine-tuned for 10 epochs: " in said
    assert "export: runs/tiny/export" in said
    longer = WHOLE_WAY.changed(["finetune.epochs=11"])
    with pytest.raises(nd.UserError, match=r"begun with other settings \(train.epochs differs\)"):
        run_all(longer, Path("runs/tiny"), asked, QUIET)


@pytest.mark.slow
def test_an_export_trains_first_if_that_is_asked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nasdeploy.exporting.proof.ExportTarget", partial(ExportTarget, protocol=QUICK))
    export(arch="smallest", finetune_epochs=12, assignments=["finetune.learning_rate=0.005"])
    shown, arch = capsys.readouterr(), arch_of(run)
    record = finetune_record(run, arch.digest)
    assert record is not None
    assert record.kept
    assert "weights    its own, fine-tuned for 12 epochs: top-1 on" in shown.out
    assert load_bundle(run.exports / arch.digest).origin.own == own_of(run, arch)
    with pytest.raises(nd.UserError, match=r"begun with other settings \(train.epochs differs\)"):
        nd.export(run, arch, finetune_epochs=13, changes={"finetune.learning_rate": 0.005})
    with pytest.raises(nd.UserError, match="exclude each other: fine-tune its networks one by one"):
        export(all_pareto=True, finetune_epochs=2)


def own_of(run: Run, arch: Arch) -> OwnWeights:
    kept = own_network(run, arch)
    assert kept is not None
    return kept.record.own_weights
