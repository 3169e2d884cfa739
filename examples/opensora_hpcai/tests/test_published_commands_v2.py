"""The published commands of Open-Sora 2.0, with tiny networks."""

import gc
import json
import shlex
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import tiny_v2
from mindspore import Tensor
from PIL import Image

from mindone.config import parse
from mindone.data.video import read_video
from mindone.data.write import write_png, write_video
from mindone.errors import UserError
from opensora import networks
from opensora.cli import open_door
from opensora.config import InferenceV2Config
from opensora.families import get_family
from opensora.generate import first_image
from opensora.generate.plan import Job
from opensora.generate.results import Result
from opensora.generate.run import generate
from opensora.generate.v2 import picture_settings, video_settings

SCRIPTS = Path(__file__).parents[1] / "scripts/v2.0"
RECIPES = Path(__file__).parents[1] / "configs/opensora-v2-0/inference"
PROMPTS = ["a red circle moves left", "a blue circle moves up"]
# What makes any recipe small.
SMALL = (
    "sampling_option.num_frames=5 sampling_option.height=16 sampling_option.width=16 sampling_option.num_steps=2 "
    "sampling_option_t2i.num_steps=2 sampling_option_t2i.height=16 sampling_option_t2i.width=16 t5.max_length=8 "
    "env.device_target=CPU env.mode=1"
)
MODELS = "model.from_pretrained={models}/denoiser ae.from_pretrained={models}/vae"
FLUX = "img_model.from_pretrained={models}/flux img_ae.from_pretrained={models}/flux_vae"
ENCODERS = "t5.from_pretrained={models}/t5 clip.from_pretrained={models}/clip"
EMBEDDED = "text_emb.t5_dir={emb}/t5 text_emb.clip_dir={emb}/clip"
NEGATIVE = "text_emb.neg_t5_dir={emb}/neg_t5 text_emb.neg_clip_dir={emb}/neg_clip"


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("v2")
    tiny_v2.save_networks(root)
    return root


@pytest.fixture(scope="session")
def embedded(models, tmp_path_factory):
    """Embeddings of the prompts, and of the empty text, in the four folders of the published commands."""
    root = tmp_path_factory.mktemp("embeddings")
    (root / "prompts.txt").write_text("\n".join(PROMPTS))
    for encoder in ("t5", "clip"):
        length = {"t5": 8, "clip": 77}[encoder]
        model = [f"model.from_pretrained={models / encoder}", f"model.max_length={length}", "env.device_target=CPU"]
        positive = [f"prompts_file={root / 'prompts.txt'}", "fps=24", "motion_score=4", f"output_path={root / encoder}"]
        open_door("embed-text-v2", [*model, *positive], "text_embedding.py")
        open_door("embed-text-v2", [*model, "prompts=", f"output_path={root / f'neg_{encoder}'}"], "text_embedding.py")
    return root


@pytest.fixture
def filled(models, embedded, tmp_path):
    """A command line with its folders; the videos go to ``samples``, those of further runs elsewhere."""
    folders = (tmp_path / name for name in ("samples", "again", "anew"))

    def filled(command, small=True):
        command = f"saving_option.output_path={next(folders)} {SMALL} {command}" if small else command
        return shlex.split(command.format(models=models, emb=embedded, tmp=tmp_path, recipes=RECIPES))

    return filled


@pytest.fixture
def run(filled):
    """Runs a command line."""
    return lambda command, door="generate-v2": open_door(door, filled(command, door == "generate-v2"), "script.py")


@pytest.fixture
def settings(filled):
    """The settings of a command line of inference_v2.py."""
    return lambda command: parse(InferenceV2Config, filled(command))


def latents_of(results):
    return np.stack([result.latents for result in results])


# --- text_embedding.py -----------------------------------------------------------------------------------------------

NUMBERED = ["000-a-red-circle-moves-left.npy", "001-a-blue-circle-moves-up.npy"]
EMBED_COMMANDS = [
    ("model.from_pretrained={models}/t5 model.max_length=8 prompts_file={tmp}/p.txt", NUMBERED, (8, 16)),
    ("--model.from_pretrained {models}/t5 --model.dtype bf16 --prompts_file {tmp}/p.txt", NUMBERED, (512, 16)),
    ("model.from_pretrained={models}/clip model.max_length=77 prompts_file={tmp}/p.txt", NUMBERED, (12,)),
    ("model.from_pretrained={models}/clip prompts_file={tmp}/p.csv", ["a/x.npy", "b/x.npy"], (12,)),
    (
        "model.from_pretrained={models}/t5 model.max_length=8 prompts_file={tmp}/q.csv --column_names name text",
        ["x.npy"],
        (8, 16),
    ),
    ("model.from_pretrained={models}/clip prompts_file={tmp}/q.csv --column_names path text", ["000-a-red.npy"], (12,)),
    (
        "model.from_pretrained={models}/t5 model.max_length=8 prompts= batch_size=1 env.mode=1 env.distributed=False",
        ["000-untitled.npy"],
        (8, 16),
    ),
]


@pytest.mark.parametrize(("command", "files", "shape"), EMBED_COMMANDS)
def test_prompts_become_arrays_of_one_encoder(run, tmp_path, command, files, shape):
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS))
    (tmp_path / "p.csv").write_text("video,caption\na/x.mp4,a red circle\nb/x.mp4,a blue circle\n")
    (tmp_path / "q.csv").write_text("name,text\nx.mp4,a red\n")
    counts = run(command + " env.device_target=CPU output_path={tmp}/out", "embed-text-v2")
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.npy"))
    assert found == files
    assert counts.written == len(files)
    for path in (tmp_path / "out").rglob("*.npy"):
        array = np.load(path, allow_pickle=False)
        assert (array.shape, array.dtype) == (shape, np.float32)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("prompts=a output_path={tmp}/out", "model.from_pretrained is not set"),
        ("model.from_pretrained={models}/t5 prompts=a", "output_path is not set"),
        ("model.from_pretrained={models}/t5 output_path={tmp}/out", "give either prompts_file=FILE or prompts"),
        ("model.from_pretrained={models}/t5 prompts=a output_path={emb}/t5", "has embeddings of other prompts"),
        (
            "model.from_pretrained={models}/clip model.max_length=99 prompts=a output_path={tmp}/out",
            "77 tokens at most",
        ),
    ],
)
def test_what_cannot_be_embedded_is_refused(run, tmp_path, command, message):
    (tmp_path / "e.csv").write_text("id,caption\n1,\n")
    (tmp_path / "f.csv").write_text("video,caption\nx.mp4,a\nx.avi,b\n")
    with pytest.raises(UserError, match=message):
        run(command + " env.device_target=CPU", "embed-text-v2")
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("script", ["text_embedding.py", "inference_v2.py"])
def test_scripts_explain_themselves_without_mindspore(script):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{script}', '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPTS / script)!r}, run_name='__main__')\n"
        "finally:\n"
        "    print('mindspore' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "False\n")
    assert done.stdout.startswith(f"usage: {script} [-c RECIPE.yaml ...]")


# --- inference_v2.py -------------------------------------------------------------------------------------------------

COMMANDS = [
    f"--config={{recipes}}/256px.yaml {MODELS} {EMBEDDED} {NEGATIVE}",
    f"--config={{recipes}}/768px.yaml {MODELS} {EMBEDDED} {NEGATIVE} sampling_option.flow_shift=3",
    f"-c {{recipes}}/256px.yaml {MODELS} {ENCODERS} text_emb.prompts={{emb}}/prompts.txt",
    f"-c {{recipes}}/256px.yaml {MODELS} {ENCODERS} --text_emb.prompts {shlex.join(PROMPTS)}",
    f"--config={{recipes}}/256px.yaml {MODELS} {EMBEDDED} sampling_option.guidance=1 sampling_option.batch_size=2",
    f"{MODELS} {EMBEDDED} {NEGATIVE} sampling_option.use_t2i2v=False",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_videos_are_numbered_and_say_what_made_them(run, tmp_path, command):
    results = run(command)
    folder = tmp_path / "samples"
    assert [result.video for result in results] == [folder / "00000.mp4", folder / "00001.mp4"]
    assert np.asarray(read_video(results[0].video)).shape == (5, 16, 16, 3)
    record = json.loads((folder / "00001.json").read_text())
    assert record["seed"] == 43
    assert record["settings"]["sampler"]["sampling_steps"] == 2


def test_embeddings_of_files_are_those_of_the_encoders(run):
    recipe = f"-c {{recipes}}/256px.yaml {MODELS} "
    encoded = run(f"{recipe} {ENCODERS} text_emb.prompts={{emb}}/prompts.txt")
    cached = run(f"{recipe} {EMBEDDED} {NEGATIVE}")
    np.testing.assert_allclose(latents_of(cached), latents_of(encoded), rtol=1e-4, atol=1e-4)


def test_a_picture_needs_one_frame_alone(run, tmp_path):
    (result, _) = run(f"{MODELS} {EMBEDDED} {NEGATIVE} sampling_option.cond_type=t2i")
    assert result.video == tmp_path / "samples" / "00000.png"
    assert result.latents.shape == (4, 1, 2, 2)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (EMBEDDED, "the denoiser is needed; give model.from_pretrained"),
        (MODELS, "there is no prompt; give text_emb.prompts"),
        (f"{MODELS} text_emb.prompts=a", "T5 is needed; give t5.from_pretrained"),
        (f"{MODELS} {EMBEDDED}", "or its embeddings as text_emb.neg_t5_dir and text_emb.neg_clip_dir"),
        (f"{MODELS} text_emb.t5_dir={{emb}}/t5", "text_emb.t5_dir needs text_emb.clip_dir"),
        (
            f"{MODELS} text_emb.t5_dir={{emb}}/t5 text_emb.clip_dir={{emb}}/neg_clip {NEGATIVE}",
            "encode the same prompts",
        ),
        (f"{MODELS} {EMBEDDED} {NEGATIVE} sampling_option.use_t2i2v=True", "the first picture's denoiser is needed"),
        (f"{MODELS} {EMBEDDED} {NEGATIVE} sampling_option.method=distill", "guidance_embed is False; use i2v"),
        (f"{MODELS} {EMBEDDED} {NEGATIVE} sampling_option.motion_score=dynamic", "would ask a language model"),
        (f"{MODELS} {EMBEDDED} {NEGATIVE} sampling_option.cond_type=i2v", "give sampling_option.ref=FILE"),
        (f"{MODELS} {EMBEDDED} {NEGATIVE} sampling_option.ref=a.png", "give a cond_type such as i2v_head"),
        (f"{MODELS} {EMBEDDED} {NEGATIVE} clip.max_length=70", "clip.max_length=70 has to be 77"),
        (f"{MODELS} {EMBEDDED} {NEGATIVE} model.depht=3", "did you mean --model.depth"),
        (f"{MODELS} {EMBEDDED} {NEGATIVE} ae.type=dc_ae", "holds an autoencoder of kind hunyuan, not Video-DC-AE"),
        (
            f"{MODELS} {FLUX} {EMBEDDED} {NEGATIVE} sampling_option.num_frames=5 guidance_parallel=True",
            "ranks that share a video do not share its first picture",
        ),
        (f"{MODELS} {EMBEDDED} {NEGATIVE} enable_sequence_parallelism=True", "this is the only one; start several"),
        (
            "model.from_pretrained=nowhere ae.from_pretrained={models}/vae " + f"{EMBEDDED} {NEGATIVE}",
            "model.from_pretrained",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(run, tmp_path, command, message):
    with pytest.raises(UserError, match=message):
        run(command)
    assert not (tmp_path / "samples").exists()


def test_settings_without_a_meaning_are_accepted_with_a_notice(run, caplog):
    names = ("temporal_reduction=4", "is_causal_vae=True", "resized_resolution=256px")
    unused = " ".join(f"sampling_option.{name}" for name in names)
    unused += " env.cache_graph=False env.precision_mode=must_keep_origin_dtype sampling_option_t2i.text_osci=True"
    run(f"{MODELS} {EMBEDDED} {NEGATIVE} {unused}")
    said = [line for line in caplog.messages if "has no effect" in line]
    assert len(said) == 6


# --- what the port of the published commands did otherwise -----------------------------------------------------------

RECIPE = f"-c {{recipes}}/256px.yaml {MODELS} "


def test_negative_prompts_change_the_video(run):
    ask = f"{RECIPE} {ENCODERS} text_emb.prompts={shlex.quote(PROMPTS[0])}"
    plain, other, empty = (
        latents_of(run(ask + more))
        for more in ("", " text_emb.neg_prompts='a blue circle'", " text_emb.neg_prompts=''")
    )
    assert np.abs(plain - other).max() > 1e-3
    np.testing.assert_array_equal(plain, empty)


def test_a_file_of_prompts_is_read(run):
    assert len(run(f"{RECIPE} {ENCODERS} text_emb.prompts={{emb}}/prompts.txt")) == len(PROMPTS)


def test_frame_rate_and_motion_are_said_in_prompts_but_not_in_negative_ones_or_of_pictures(run, tmp_path):
    ask = f"{RECIPE} {ENCODERS} text_emb.prompts='a red circle' sampling_option.motion_score=7 saving_option.fps=16"
    run(ask)
    run(ask + " sampling_option.cond_type=t2i")
    records = [json.loads(path.read_text())["encoded_text"] for path in tmp_path.rglob("*.json")]
    assert sorted(records) == ["a red circle", "a red circle. 16 FPS. 7 motion score."]


def test_every_sample_has_its_own_seed_and_does_not_depend_on_its_batch(run):
    ask = f"{RECIPE} {EMBEDDED} {NEGATIVE} sampling_option.num_samples=2 sampling_option.batch_size="
    alone, together = run(ask + "1"), run(ask + "3")
    assert [result.job.seed for result in together] == [42, 43, 44, 45]
    assert len({result.latents.tobytes() for result in together}) == 4
    np.testing.assert_allclose(latents_of(together), latents_of(alone), rtol=1e-4, atol=1e-4)


def test_sizes_of_networks_come_from_the_command_line_too(run, models, tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes((models / "denoiser" / "model.safetensors").read_bytes())
    sizes = {name: list(value) if name == "axes_dim" else value for name, value in vars(tiny_v2.DENOISER).items()}
    said = " ".join(f"--model.{name} {' '.join(map(str, np.atleast_1d(value)))}" for name, value in sizes.items())
    by_name = run(f"{RECIPE} {EMBEDDED} {NEGATIVE} {said} model.from_pretrained={weights}")
    by_folder = run(f"{RECIPE} {EMBEDDED} {NEGATIVE}")
    np.testing.assert_array_equal(latents_of(by_name), latents_of(by_folder))


# --- pictures of Flux ------------------------------------------------------------------------------------------------


def test_flux_is_told_the_guidance_and_needs_no_negative_text(run, settings):
    """What is moved away from changes nothing, and there is one branch instead of two."""
    command = f"-c {{recipes}}/t2i2v_256px.yaml {MODELS} {FLUX} {EMBEDDED} {NEGATIVE} "
    pictures = [
        latents_of(generate(picture_settings(settings(command + more))))
        for more in (
            "",
            "text_emb.neg_t5_dir={emb}/t5 text_emb.neg_clip_dir={emb}/clip",
            "sampling_option_t2i.guidance=9",
        )
    ]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert np.abs(pictures[0] - pictures[2]).max() > 1e-3


def test_first_pictures_have_a_size_and_a_folder_of_their_own(settings, tmp_path):
    command = f"-c {{recipes}}/t2i2v_256px.yaml {MODELS} {FLUX} {EMBEDDED} {NEGATIVE} "
    config = settings(command + "sampling_option_t2i.height=32 sampling_option_t2i.width=48")
    results = generate(picture_settings(config))
    folder = tmp_path / "samples" / "generated_condition"
    assert [result.video for result in results] == [folder / "00000.png", folder / "00001.png"]
    assert Image.open(results[0].video).size == (48, 32)
    assert [result.job.seed for result in results] == [42, 43]


@pytest.mark.parametrize(
    ("video", "picture", "size"),
    [
        ("resolution=256px sampling_option.aspect_ratio=9:16", "", (1024, 576)),
        ("height=192 sampling_option.width=336", "sampling_option_t2i.resolution=256px", (192, 336)),
        ("resolution=256px sampling_option.aspect_ratio=9:16", "sampling_option_t2i.aspect_ratio=1:1", (768, 768)),
    ],
)
def test_a_first_picture_has_the_shape_of_its_video_unless_it_is_said(video, picture, size):
    flags = f"{MODELS} {FLUX} {EMBEDDED} {NEGATIVE} sampling_option.num_frames=5 sampling_option.{video} {picture}"
    shape = picture_settings(parse(InferenceV2Config, shlex.split(flags))).shape
    assert get_family("v2.0").size(shape) == (1, *size)


# --- what is given ---------------------------------------------------------------------------------------------------


@pytest.fixture
def references(tmp_path):
    """Two pictures and two clips."""
    rng = np.random.default_rng(0)
    for number in (0, 1):
        frames = rng.integers(0, 256, (37, 16, 16, 3), np.uint8)
        write_png(tmp_path / f"{number}.png", frames[:1])
        write_video(tmp_path / f"{number}.mp4", frames, 24)
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "refs", "given"),
    [
        ("i2v_head", ["{tmp}/0.png", "{tmp}/1.png"], slice(0, 1)),
        ("i2v", ["{tmp}/0.png", "{tmp}/1.png"], slice(0, 1)),
        ("i2v_tail", ["{tmp}/0.png", "{tmp}/1.png"], slice(-1, None)),
        ("i2v_loop", ["'{tmp}/0.png;{tmp}/1.png'", "'{tmp}/1.png;{tmp}/0.png'"], [0, -1]),
        ("v2v", ["{tmp}/0.mp4", "{tmp}/1.mp4"], slice(0, 9)),
        ("v2v_tail", ["{tmp}/0.mp4", "{tmp}/1.mp4"], slice(-9, None)),
    ],
)
def test_pictures_and_clips_of_the_user_stand_in_every_video_of_a_batch(run, references, kind, refs, given):
    command = f"{RECIPE} {EMBEDDED} {NEGATIVE} sampling_option.cond_type={kind} --sampling_option.ref {' '.join(refs)} "
    if kind.startswith("v2v"):
        command = command.replace("--sampling_option.ref", "--sampling_option.num_frames 37 --sampling_option.ref")
    together, alone = (run(f"{command} sampling_option.batch_size={size}") for size in (2, 1))
    np.testing.assert_allclose(latents_of(together), latents_of(alone), rtol=1e-4, atol=1e-4)
    first, second = (result.latents[:, given] for result in together)
    assert np.abs(first - second).max() > 1e-2


def test_a_picture_is_encoded_as_it_is_and_kept(run, references, models):
    command = f"{RECIPE} {EMBEDDED} {NEGATIVE} sampling_option.cond_type=i2v_head sampling_option.num_samples=2 "
    results = run(command + "--sampling_option.ref {tmp}/0.png {tmp}/1.png")
    autoencoder = networks.load_autoencoder(models / "vae")
    for result, number in zip(results, (0, 0, 1, 1)):
        pixels = np.asarray(Image.open(references / f"{number}.png"), np.float32) / 127.5 - 1
        latents = autoencoder.encode(Tensor(pixels.transpose(2, 0, 1)[None, :, None])).asnumpy()[0]
        np.testing.assert_allclose(result.latents[:, :1], latents, atol=1e-4)


def test_every_video_starts_from_a_picture_of_its_own(run, tmp_path):
    command = f"-c {{recipes}}/t2i2v_256px.yaml {MODELS} {FLUX} {EMBEDDED} {NEGATIVE} sampling_option.num_samples=2"
    results = run(f"{command} sampling_option.batch_size=2")
    folder = tmp_path / "samples"
    assert [result.video for result in results] == [folder / f"0000{number}.mp4" for number in range(4)]
    pictures = [folder / "generated_condition" / f"0000{number}.png" for number in range(4)]
    records = [json.loads((folder / f"0000{number}.json").read_text()) for number in range(4)]
    assert [record["references"] for record in records] == [[str(path)] for path in pictures]
    assert [record["seed"] for record in records] == [42, 43, 44, 45]
    assert len({path.read_bytes() for path in pictures}) == 4


def test_networks_of_pictures_and_of_videos_are_never_in_memory_together(run, monkeypatch):
    alive: list[weakref.ref] = []
    named = []

    def watched(load):
        def loaded(*args, **kwargs):
            gc.collect()
            assert not [reference for reference in alive if reference() is not None]
            network = load(*args, **kwargs)
            alive.append(weakref.ref(network))
            named.append(type(network).__name__)
            return network

        return loaded

    for name in ("load_denoiser", "load_autoencoder"):
        monkeypatch.setattr(networks, name, watched(getattr(networks, name)))
    run(f"-c {{recipes}}/t2i2v_256px.yaml {MODELS} {FLUX} {EMBEDDED} {NEGATIVE}")
    video = "AutoencoderKLCausal3D"
    assert named == ["MMDiT", "FluxAutoencoder", video, "MMDiT", video]


def test_a_rank_names_its_own_pictures_and_one_without_any_makes_no_video(settings, monkeypatch):
    config = settings(f"-c {{recipes}}/t2i2v_256px.yaml {MODELS} {FLUX} {EMBEDDED} {NEGATIVE}")
    videos, pictures = video_settings(config), picture_settings(config)
    for made, expected in (([], None), ([43], ["43.png", "43.png"]), ([42, 43], ["42.png", "43.png"])):
        results = [Result(Job(0, seed, ""), None, video=f"{seed}.png") for seed in made]
        monkeypatch.setattr(first_image, "generate", lambda config, results=results: results)
        assert first_image.with_first_images(videos, pictures).conditions.reference_path == expected
