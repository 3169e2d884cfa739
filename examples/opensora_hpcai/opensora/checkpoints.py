"""What the library cannot know of our checkpoints: which network a name belongs to, and the parts of 1.2's autoencoder.

Importing this module does not import MindSpore.
"""

from __future__ import annotations

from pathlib import Path

from mindone.checkpoint import TensorFile
from mindone.checkpoint.convert import convert_autoencoder, published_shape
from mindone.checkpoint.describe import Signatures
from mindone.checkpoint.naming import Shape

SIGNATURES: Signatures = {
    "STDiT3 (Open-Sora 1.2)": ("spatial_blocks.*", "temporal_blocks.*", "fps_embedder.*"),
    "STDiT2 (Open-Sora 1.1)": ("blocks.*.attn_temp.*", "t_block_temp.*"),
    "STDiT (Open-Sora 1.0)": ("blocks.*.attn_temp.*", "x_embedder.*"),
    "PixArt": ("blocks.*.cross_attn.*", "x_embedder.*", "y_embedder.*"),
    "MMDiT (Open-Sora 2.0, Flux)": ("double_blocks.*", "single_blocks.*", "img_in.*"),
    "MMDiT in the layout of diffusers": ("transformer_blocks.*", "single_transformer_blocks.*", "x_embedder.*"),
    "video autoencoder of Open-Sora 1.2": ("spatial_vae.*", "temporal_vae.*"),
    "Hunyuan video autoencoder": ("encoder.down_blocks.*.conv1.conv.*", "decoder.up_blocks.*.conv1.conv.*"),
    "DC-AE": ("encoder.stages.*.op_list.*", "decoder.stages.*.op_list.*"),
}
SPATIAL_PREFIX = "spatial_vae.module."
PARTS = (f"{SPATIAL_PREFIX}encoder", "temporal_vae.encoder")


def convert_video_autoencoder(source: str | Path, target: str | Path, from_vae2d: bool = False) -> TensorFile:
    """Brings an autoencoder of Open-Sora 1.2 to its published names and shapes, in any format.

    Args:
        from_vae2d: the source is the 2D autoencoder alone; its tensors become ``spatial_vae.module.*``.
    Returns:
        What was written.
    Raises:
        UserError: as `mindone.checkpoint.convert.convert`, or the source is another network.
    """
    if from_vae2d:
        return convert_autoencoder(source, target, PARTS[:1], SPATIAL_PREFIX, _shape)
    return convert_autoencoder(source, target, PARTS, "", _shape, "; for a 2D autoencoder use --from_vae2d")


def _shape(name: str, shape: Shape) -> Shape:
    """As `published_shape`; ``scale`` and ``shift`` become (1, C, 1, 1, 1)."""
    return (1, *shape, 1, 1, 1) if name in ("scale", "shift") and len(shape) == 1 else published_shape(name, shape)
