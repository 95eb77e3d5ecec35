"""What the README of a bundle says of formats that predict.py does not run."""

import pytest

from nasdeploy.export.bundle.readme import readme
from nasdeploy.export.figures import Proof
from nasdeploy.runtimes.device import Device
from tests.export.test_manifest import artefact_of, manifest_of


def of_format(name: str, batch: int = 1) -> str:
    device = Device(name="here", runtime="executorch", batch=batch)
    artefact = artefact_of(Proof(), format=name, device=device)
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
