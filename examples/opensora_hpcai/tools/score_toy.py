"""Scores clips of the toy world: existing ones, or what a model makes of seen and unseen prompts.

python tools/score_toy.py --config configs/tiny/opensora_v1_2_sample.yaml
python tools/score_toy.py --videos datasets/toy [--shuffle_captions True]
"""

from opensora.pipelines.score import main

if __name__ == "__main__":
    main()
