import dataclasses

import mindspore as ms
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mindone.checkpoint import save_model
from mindone.errors import UserError
from mindone.models.t5 import T5Config, T5Encoder
from opensora.text.encoder import TextEncoder

WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "circle", "moves", "left"]
TEXTS = ["a red circle moves left", "a circle", "red"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    config = T5Config(vocab_size=len(WORDS), d_model=12, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    network = T5Encoder(config)
    rng = np.random.default_rng(0)
    for parameter in network.get_parameters():
        parameter.set_data(ms.Tensor(rng.normal(size=parameter.shape).astype(np.float32)))
    save_model(folder, network, dataclasses.asdict(config))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_a_partial_batch_gives_the_same_embeddings_as_single_texts(folder, mode):
    in_pairs = TextEncoder.from_folder(folder, 7, batch_size=2).encode(TEXTS)
    singly = TextEncoder.from_folder(folder, 7, batch_size=1)
    assert in_pairs.embeddings.shape == (3, 7, 12)
    assert in_pairs.embeddings.dtype == np.float32
    assert in_pairs.mask.sum(1).tolist() == [6, 3, 2]
    for row, text in enumerate(TEXTS):
        alone = singly.encode([text])
        np.testing.assert_allclose(alone.embeddings[0], in_pairs.embeddings[row], rtol=1e-5, atol=1e-5)
        assert alone.tokens[0].tolist() == in_pairs.tokens[row].tolist()


def test_padding_does_not_change_the_embeddings_of_a_text(folder):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    short, long = (TextEncoder.from_folder(folder, length).encode(TEXTS[:1]) for length in (6, 9))
    np.testing.assert_allclose(short.embeddings[0], long.embeddings[0, :6], rtol=1e-5, atol=1e-5)


def test_a_text_that_is_too_long_is_cut_and_said(folder, caplog):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    encoded = TextEncoder.from_folder(folder, 4).encode(["a red circle moves left a red circle", "red"])
    assert encoded.mask.sum(1).tolist() == [4, 2]
    assert caplog.text.count("cut from 9 to 4 tokens") == 1


def test_folders_that_cannot_be_used_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="t5_model_name_or_path"):
        TextEncoder.from_folder(None, 4)
    with pytest.raises(UserError, match="missing"):
        TextEncoder.from_folder(tmp_path / "missing", 4)
    with pytest.raises(UserError, match="d_model"):
        TextEncoder.from_folder(tmp_path, 4)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="JSON"):
        TextEncoder.from_folder(tmp_path, 4)


def test_an_encoder_of_another_width_than_the_denoiser_takes_is_refused(folder):
    with pytest.raises(UserError, match="width 12.*caption_channels=16"):
        TextEncoder.from_folder(folder, 4, expected_dim=16)
