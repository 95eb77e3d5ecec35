"""A pretrained network in small: a random one of timm whose classifier was fitted to pictures of three colours."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nasdeploy.importers import IMPORTERS
from nasdeploy.supernet.settings import StartSettings

MODEL = "lcnet_035"
"""The smallest of timm's networks that can be read: 10 million multiply-accumulates at 96 pixels."""
COLOURS = {"blue": (40, 60, 220), "green": (50, 200, 70), "red": (210, 50, 40)}
SIDE = 96


def write_pictures(folder: Path, counts: Mapping[str, int]) -> Path:
    """Write pictures of the colour of their class, so many for each class of each part."""
    rng = np.random.default_rng(0)
    for part, count in counts.items():
        for name, colour in COLOURS.items():
            place = folder / part / name
            place.mkdir(parents=True)
            for number in range(count):
                grain = rng.normal(0, 1, (SIDE, SIDE, 3)) + np.array(colour)
                Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(place / f"{number}.png")
    return folder


def fitted(pictures: Path, order: Sequence[str], file: Path) -> StartSettings:
    """Write the weights of a random network whose classifier is right on the pictures, with its classes in an order."""
    torch.manual_seed(0)
    model = IMPORTERS["timm"].model(MODEL, classes=len(order))
    expected = IMPORTERS["timm"].read(model, MODEL).expected
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (expected.mean, expected.std))
    files = sorted(pictures.glob("train/*/*.png"))
    # As they are, and as evaluation sees them: enlarged, and their margin cut off.
    larger = round(SIDE / expected.crop_pct)
    margin = (larger - SIDE) // 2
    as_they_are = [Image.open(each) for each in files]
    seen = [
        each.resize((larger, larger), Image.Resampling.BICUBIC).crop((margin, margin, margin + SIDE, margin + SIDE))
        for each in as_they_are
    ]
    pixels = [torch.from_numpy(np.array(each)).permute(2, 0, 1) / 255 for each in (*as_they_are, *seen)]
    images = (torch.stack(pixels) - mean) / std
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = None
    with torch.no_grad():
        # Running statistics of these pictures, as a trained network has them.
        model.train()(images)
        model.eval()
        features = model.forward_head(model.forward_features(images), pre_logits=True)
        wanted = torch.tensor([list(order).index(each.parent.name) for each in files] * 2)
        targets = torch.nn.functional.one_hot(wanted, len(order)).float() - 1 / len(order)
        centred = features - features.mean(0)
        squares = centred.T @ centred
        ridge = 1e-1 * float(squares.diagonal().mean()) * torch.eye(len(squares))
        weight = torch.linalg.solve(squares + ridge, centred.T @ targets).T
        model.classifier.weight.copy_(weight)
        model.classifier.bias.copy_(-weight @ features.mean(0))
    torch.save(model.state_dict(), file)
    return StartSettings(model=f"timm:{MODEL}", weights=str(file))
