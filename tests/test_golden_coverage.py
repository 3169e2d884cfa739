"""Every reference run is compared with, or belongs to a network that does not exist yet."""

import re
from pathlib import Path

from mindone.testing import golden
from mindone.testing.pytest_plugin import NOT_YET_COVERED

ROOT = Path(__file__).parent.parent
COVERED = {
    "t5_encoder": "tests/models/test_t5.py",
    "clip_text.": "tests/models/test_clip.py",
    "clip_text_projection": "tests/models/test_clip.py",
    "clip_vision": "tests/models/test_clip_vision.py",
    "clip_matching": "tests/models/test_clip_vision.py",
    "aesthetic_head": "tests/models/test_clip_vision.py",
    "metric_frechet": "tests/metrics/test_frechet.py",
    "lpips_": "tests/models/test_lpips.py",
    "loss_v1": "examples/opensora_hpcai/tests/models/test_vae_loss.py",
    "loss_v20_vae": "examples/opensora_hpcai/tests/models/test_vae_loss.py",
    "v20_mmdit_": "examples/opensora_hpcai/tests/models/test_mmdit.py",
    "v1x_caption_embedder": "examples/opensora_hpcai/tests/models/test_layers.py",
    "v00_dit_": "examples/opensora_hpcai/tests/models/test_early_dit.py",
    "v00_patchify": "examples/opensora_hpcai/tests/models/test_early_dit.py",
    "v00_vqvae": "examples/opensora_hpcai/tests/models/test_vqvae.py",
    "v10_dit_": "examples/opensora_hpcai/tests/models/test_older_denoisers.py",
    "v10_latte_": "examples/opensora_hpcai/tests/models/test_older_denoisers.py",
    "v10_pixart": "examples/opensora_hpcai/tests/models/test_older_denoisers.py",
    "data_v12_pab_schedule": "tests/diffusion/test_step_cache.py",
    "data_v12_teacache_schedule": "tests/diffusion/test_step_cache.py",
    "v10_stdit_": "examples/opensora_hpcai/tests/models/test_stdit.py",
    "v11_stdit2_": "examples/opensora_hpcai/tests/models/test_stdit2.py",
    "v12_stdit3_": "examples/opensora_hpcai/tests/models/test_stdit3.py",
    "v10_vae2d": "examples/opensora_hpcai/tests/models/test_vae.py",
    "v12_vae_": "examples/opensora_hpcai/tests/models/test_vae.py",
    "v20_flux_ae": "examples/opensora_hpcai/tests/models/test_vae_v2_0.py",
    "v20_hunyuan_vae": "examples/opensora_hpcai/tests/models/test_vae_v2_0.py",
    "v20_dcae": "examples/opensora_hpcai/tests/models/test_vae_v2_0.py",
    "sched_v12_rflow_": "examples/opensora_hpcai/tests/test_timestep_shift_golden.py",
    "sched_v10_iddpm_": "tests/diffusion/test_iddpm.py",
    "sched_v11_iddpm_": "tests/diffusion/test_iddpm.py",
    "sched_v20_sampling": "tests/diffusion/test_shifted_flow.py",
    "sched_v20_losses_conditions": "tests/diffusion/test_shifted_flow.py",
    "v20_train_pack_shift": "tests/diffusion/test_shifted_flow.py",
    "v20_train_condition_noncausal": "examples/opensora_hpcai/tests/conditions/test_visual.py",
    "v20_train_step": "examples/opensora_hpcai/tests/families/test_mmdit_family.py",
    "data_v11_aspect_ratios": "examples/opensora_hpcai/tests/data/test_aspect.py",
    "data_v12_aspect_ratios": "examples/opensora_hpcai/tests/data/test_aspect.py",
    "data_v20_aspect_ratios": "examples/opensora_hpcai/tests/data/test_aspect.py",
    "data_v11_buckets": "examples/opensora_hpcai/tests/data/test_buckets.py",
    "data_v12_buckets": "examples/opensora_hpcai/tests/data/test_buckets.py",
    "data_v20_buckets": "examples/opensora_hpcai/tests/data/test_buckets.py",
    "data_v11_mask_generator": "examples/opensora_hpcai/tests/data/test_masks.py",
    "data_v12_mask_generator": "examples/opensora_hpcai/tests/data/test_masks.py",
    "data_v11_mask_strategy_prompts": "examples/opensora_hpcai/tests/text/test_texts_of_loops.py",
    "data_v12_mask_strategy_prompts": "examples/opensora_hpcai/tests/text/test_texts_of_loops.py",
    "data_v20_prompt_format": "examples/opensora_hpcai/tests/families/test_mmdit_family.py",
    "metric_psnr_ssim": "tests/metrics/test_image.py",
    "disc_": "examples/opensora_hpcai/tests/models/test_discriminators.py",
    "lora_": "examples/opensora_hpcai/tests/models/test_lora_golden.py",
    "optim_steps": "tests/train/test_optim_golden.py",
    "optim_ema": "tests/train/test_optim_golden.py",
    "optim_lr_schedules": "tests/train/test_schedule.py",
    "data_caption_cleaning": "examples/opensora_hpcai/tests/text/test_cleaning.py",
    "v12_eval_loss": "examples/opensora_hpcai/tests/training/test_validation.py",
}


def test_every_reference_run_is_known(golden_dir, pytestconfig):
    known = (*COVERED, *pytestconfig.getini(NOT_YET_COVERED))
    unknown = [stem for stem in golden.stems(golden_dir) if not golden.matching(stem, known)]
    assert not unknown, f"no test compares with {unknown}; mark one with pytest.mark.golden and add it to COVERED"


def test_every_covered_prefix_is_marked_in_its_test_file():
    for prefix, file in COVERED.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        marks = " ".join(re.findall(r"mark\.golden\(([^)]*)\)", text))
        assert f'"{prefix}' in marks, f"{file} has no test marked with {prefix}"


def test_no_two_test_files_have_the_same_name():
    """Run with ``--golden`` on a folder outside, pytest imports test files by their names alone."""
    names = [file.name for folder in ("tests", "examples") for file in (ROOT / folder).rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_tests_import_nothing_by_its_place():
    """For the same reason: their folders are no packages then."""
    for file in [file for folder in ("tests", "examples") for file in (ROOT / folder).rglob("test_*.py")]:
        assert not re.search(r"^from \.", file.read_text(encoding="utf-8"), re.M), f"{file} has a relative import"
