"""What the README of a bundle says of formats that predict.py does not run."""

import pytest

from nasdeploy.exporting.bundle.readme import readme
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.exporting.record import ModelLatency, Proof, RunsAfterGaps, Throughput
from nasdeploy.runtimes.device import Device
from nasdeploy.store.records import CopyFacts, DataFacts
from tests.exporting.test_manifest import artefact_of, manifest_of


def of_format(name: str, batch: int = 1) -> str:
    device = Device(name="here", runtime="executorch", batch=batch)
    most = FORMATS[name].largest_batch(device)
    artefact = artefact_of(Proof(), format=name, device=device, largest_batch=most)
    return readme(manifest_of(Proof()).model_copy(update={"artefacts": (artefact,)}))


def test_a_program_of_its_own_is_promised_for_what_it_runs_only() -> None:
    assert "python predict.py IMAGE_OR_FOLDER" in of_format("onnx")
    text = of_format("executorch")
    assert "python predict.py" not in text
    assert "pip install" not in text
    assert "`nasdeploy predict . IMAGE_OR_FOLDER...` classifies images" in text


@pytest.mark.parametrize(("batch", "most"), [(1, 32), (64, 64)])
def test_the_most_images_in_a_call_are_told_where_there_is_a_most(batch: int, most: int) -> None:
    assert f"takes at most {most} images in a call." in of_format("executorch", batch)
    assert "takes at most" not in of_format("onnx", batch)


@pytest.mark.parametrize(("learned", "several"), [(12, 0), (0, 6), (0, 0)])
def test_figures_on_images_that_were_learned_from_are_said_to_prove_nothing(learned: int, several: int) -> None:
    copies = CopyFacts(test_in_training=learned, in_several_classes=several)
    digests = {"digest": "0" * 32, "test_digest": "1" * 32}
    data = DataFacts(images={"train": 36, "test": 15}, compared_by="contents", copies=copies, **digests)
    text = readme(manifest_of(Proof(), data=data))
    said = "**12 of the 15 test images are also training images, byte for byte: figures on these prove nothing.**"
    assert (said in text) == bool(learned)
    assert ("**6 pictures of the run's data lie under several classes.**" in text) == bool(several)


def test_latency_is_told_back_to_back_and_after_gaps_and_throughput_with_what_was_done() -> None:
    def figures(median: float) -> dict[str, float]:
        return {"median_ms": median, "p10_ms": median - 1, "p90_ms": median + 1, "p95_ms": median + 2}

    latency = ModelLatency(
        **figures(2.0),
        batch=4,
        runs=9,
        noisy=False,
        predicted_ms=None,
        after_gaps=RunsAfterGaps(gap_ms=50.0, **figures(7.0), runs=5, noisy=True),
        throughput=Throughput(images=1200, seconds=3.0),
    )
    text = readme(manifest_of(Proof(latency=latency)))
    assert "median 2 ms (p10 1, p90 3, p95 4), calls back to back" in text
    assert "the same after doing nothing for 50 ms" in text
    assert "median 7 ms (p10 6, p90 8, p95 9), too noisy to be trusted" in text
    assert "400 images/s: 1200 were done back to back in 3 s" in text
