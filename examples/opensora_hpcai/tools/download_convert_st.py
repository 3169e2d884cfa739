"""Downloads a model of a hub and converts its PyTorch files to safetensors; a stopped download goes on.

HF_ENDPOINT names another hub, HF_HUB_OFFLINE=1 uses only what is there already.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from mindone.checkpoint.download import fetch_model
from mindone.errors import guarded


@guarded
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_id", help="owner/name, such as DeepFloyd/t5-v1_1-xxl")
    parser.add_argument("--target", help="the folder to fill; default: models/NAME")
    parser.add_argument("--revision", help="a branch, tag or commit; default: the main branch. The commit is printed")
    parser.add_argument("--include", default="*", help="only files that fit this pattern, such as 'vae/*'")
    parser.add_argument("--disable_ssl_verify", action="store_true", help="has no effect: certificates are verified")
    args = parser.parse_args(argv)
    if args.disable_ssl_verify:
        logging.warning("disable_ssl_verify has no effect: certificates are always verified")
    target = Path(args.target or Path("models") / args.model_id.rpartition("/")[2])
    print(f"the model is in {fetch_model(args.model_id, target, args.revision, args.include)}")


if __name__ == "__main__":
    main()
