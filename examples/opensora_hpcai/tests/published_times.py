"""Published times of Open-Sora on Atlas 800T A2, and what is known to need more memory than there was."""

from dataclasses import dataclass
from functools import cache

from mindone import runtime
from opensora import networks
from opensora.config.train import TrainConfig
from opensora.costs.device import ASCEND_A2
from opensora.costs.plan import network_of
from opensora.costs.step import Spread, forward_seconds, update_seconds
from opensora.costs.work import MicroBatch, encoder_flops
from opensora.families import settle

ALONE = Spread(8, 1, 0)
IMAGES, VIDEOS, HUNYUAN = "SD-VAE", "OpenSora-VAE-v1.2", "Hunyuan-VAE"


@dataclass(frozen=True)
class Row:
    """One published time: seconds of an update, or of a sampling step with ``branches`` of guidance."""

    version: str
    size: tuple[int, int, int]
    seconds: float
    samples: int = 1
    spread: Spread = ALONE
    recomputed: float = 1.0
    cached: bool = False
    branches: int = 0
    model: str | None = None
    autoencoder: str | None = None

    @property
    def predicted(self) -> float:
        family, network = denoiser(self.version, self.model)
        autoencoder = encoder(self.autoencoder or family.autoencoder_preset)
        work = 0.0 if self.cached else encoder_flops(autoencoder, self.size)
        samples = self.samples * max(1, self.branches)
        batch = MicroBatch(autoencoder.latent_size(self.size), family.model_max_length, samples, work)
        if self.branches:
            return forward_seconds(network, batch, ASCEND_A2, self.spread.sequence)
        return update_seconds(network, batch, self.recomputed, ASCEND_A2, self.spread)


@cache
def denoiser(version, model=None):
    config = TrainConfig()
    family, config = settle(config, version, model)
    return family, network_of(config, family, None)


@cache
def encoder(name):
    with runtime.lazy_parameters():
        return networks.autoencoder_skeleton(name)


ROWS = {
    "1.0, 16x256x256": Row("v1", (16, 256, 256), 1.53, samples=3),
    "1.0, 16x512x512": Row("v1", (16, 512, 512), 2.47),
    "1.0, 64x512x512": Row("v1", (64, 512, 512), 8.52, recomputed=24 / 28),
    "1.0, 120x256x256, 4 cards per video": Row("v1", (120, 256, 256), 4 / 3.18, 2, Spread(2, 4, 0)),
    "1.1, 16x512x512": Row("v1.1", (16, 512, 512), 2.28),
    "1.1, 16x512x512, rows of patches": Row("v1.1", (16, 512, 512), 2.3, spread=Spread(4, 1, 0)),
    "1.1, 64x512x512": Row("v1.1", (64, 512, 512), 8.57),
    "1.1, 24x576x1024": Row("v1.1", (24, 576, 1024), 8.55),
    "1.1, 64x576x1024, cached": Row("v1.1", (64, 576, 1024), 18.94, cached=True),
    "1.2, 51x720x1280": Row("v1.2", (51, 720, 1280), 11.24),
    "1.2, 408x720x1280, 4 cards per video": Row("v1.2", (408, 720, 1280), 48.3, spread=Spread(1, 4, 0)),
    "1.2, 408x720x1280, 4 cards per video, DSP": Row("v1.2", (408, 720, 1280), 47.0, spread=Spread(1, 4, 0)),
    "2.0, 129x256x256, cached": Row("v2.0", (129, 256, 256), 4.58, spread=Spread(8, 1, 3), cached=True),
    "2.0, 129x256x256": Row("v2.0", (129, 256, 256), 11.8, 2, Spread(8, 1, 3)),
    "2.0, 129x768x768, 8 cards per video, cached": Row(
        "v2.0", (129, 768, 768), 16.5, spread=Spread(1, 8, 3), cached=True
    ),
    "sampling 1.0, 16x256x256": Row("v1", (16, 256, 256), 0.39, 4, branches=2),
    "sampling 1.0, 16x512x512": Row("v1", (16, 512, 512), 1.85, branches=2),
    "sampling 1.0, 64x512x512": Row("v1", (64, 512, 512), 2.78, branches=2),
    "sampling 1.1, 16x640x360": Row("v1.1", (16, 640, 360), 1.56, branches=2),
    "sampling 1.2, 51x720x1280": Row("v1.2", (51, 720, 1280), 4.83, branches=2),
    "sampling 1.2, 102x720x1280": Row("v1.2", (102, 720, 1280), 8.81, branches=2),
    "sampling 1.2, 408x720x1280, 2 cards": Row("v1.2", (408, 720, 1280), 26.03, spread=Spread(1, 2, 0), branches=2),
    "sampling 1.2, 408x720x1280, 2 cards, DSP": Row(
        "v1.2", (408, 720, 1280), 22.03, spread=Spread(1, 2, 0), branches=2
    ),
    "sampling Flux.1-dev, 576x1024": Row(
        "v2.0", (1, 576, 1024), 14.7 / 50, branches=1, model="Flux.1-dev", autoencoder="Flux-AE"
    ),
    "sampling 2.0, 129x192x336": Row("v2.0", (129, 192, 336), 156 / 50, branches=3),
    "sampling 2.0, 77x576x1024": Row("v2.0", (77, 576, 1024), 1453 / 50, branches=3),
    "sampling 2.0, 129x576x1024": Row("v2.0", (129, 576, 1024), 4973 / 50, branches=3),
}
"""What was published with enough said to compute it."""
