"""nasdeploy: from images and a device to the most accurate network that measurably meets a latency budget."""

__version__ = "0.1.0"
