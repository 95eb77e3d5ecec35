"""`nasdeploy bench` on a board over SSH."""

from nasdeploy.core.progress import Progress
from nasdeploy.workflows.models import bench
from tests.latency.runners.boards import HASTY, device, model


def test_files_are_measured_on_the_board(server, tmp_path):
    paths = [tmp_path / f"{size}.onnx" for size in (3, 5)]
    for path, size in zip(paths, (3, 5), strict=True):
        path.write_bytes(model(size))
    results = bench([str(path) for path in paths], device(server), Progress(quiet=True), protocol=HASTY)
    assert [result.model for result in results] == [str(path) for path in paths]
    assert all(result.median_ms > 0 for result in results)
