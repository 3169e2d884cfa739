"""Verifies a run's checkpoint against its manifest, two checkpoints bit by bit, or a network against a reference run.

python tools/verify.py output/run/ckpt/step-00000500
python tools/verify.py model.pth model.safetensors
python tools/verify.py tests/golden/t5_encoder.json
"""

from functools import partial

from opensora.cli import enter

main = partial(enter, "verify")

if __name__ == "__main__":
    main()
