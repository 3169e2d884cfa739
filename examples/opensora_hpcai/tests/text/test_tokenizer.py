import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mindone.errors import UserError
from opensora.text.tokenizer import TextTokenizer

WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "circle", "moves", "left"]


@pytest.fixture
def folder(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_texts_are_padded_and_end_with_the_end_token(folder):
    ids, mask, lengths = TextTokenizer(folder, 6)(["a red circle", "", "a blue circle"])
    assert ids.tolist() == [[3, 4, 5, 1, 0, 0], [1, 0, 0, 0, 0, 0], [3, 2, 5, 1, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]]
    assert lengths == [4, 1, 4]


def test_a_long_text_is_cut_but_keeps_its_end_token_and_its_length_is_told(folder):
    ids, mask, lengths = TextTokenizer(folder, 4)(["a red circle moves left a a a a"])
    assert ids.tolist() == [[3, 4, 5, 1]]
    assert mask.all()
    assert lengths == [10]


def test_the_classes_of_the_hub_read_the_same_folder_as_the_file_itself(folder):
    config = '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>"}'
    (folder / "tokenizer_config.json").write_text(config)
    texts = ["a red circle moves left", "red"]
    direct = TextTokenizer(folder, 4)
    through_hub = TextTokenizer(folder, 4)
    through_hub._encode = through_hub._from_hub_layout()
    for ours, theirs in zip(direct(texts), through_hub(texts)):
        assert np.array_equal(ours, theirs)


def test_a_folder_without_a_tokenizer_or_with_a_broken_one_is_refused(tmp_path):
    with pytest.raises(UserError, match="tokenizer.json"):
        TextTokenizer(tmp_path, 4)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a readable tokenizer"):
        TextTokenizer(tmp_path, 4)


@pytest.mark.parametrize(
    ("there", "lacking"),
    [
        (
            {"tokenizer_config.json": '{"tokenizer_class": "T5Tokenizer"}'},
            "lacks tokenizer.json .or spiece.model for T5",
        ),
        ({"vocab.json": "{}", "tokenizer_config.json": "{}"}, "lacks merges.txt"),
        ({"merges.txt": ""}, "lacks vocab.json"),
    ],
)
def test_a_tokenizer_that_lacks_a_file_is_refused_with_its_name(tmp_path, there, lacking):
    """The hub's classes make a tokenizer of a T5 folder without spiece.model, for which every word is unknown."""
    for name, text in there.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=lacking):
        TextTokenizer(tmp_path, 4)


@pytest.mark.parametrize("name", ["tokenizer.json", "spiece.model", "tokenizer_config.json"])
def test_a_pointer_of_git_lfs_is_called_one(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 791656\n")
    with pytest.raises(UserError, match=f"{name} is only a pointer of Git LFS"):
        TextTokenizer(folder, 4)


def test_a_damaged_sentencepiece_file_is_named(tmp_path):
    (tmp_path / "spiece.model").write_bytes(b"no model at all")
    with pytest.raises(UserError, match="spiece.model is not a readable tokenizer file"):
        TextTokenizer(tmp_path, 4)


def test_a_pad_token_that_is_no_text_is_refused(folder):
    (folder / "tokenizer_config.json").write_text('{"pad_token": 3}')
    with pytest.raises(UserError, match="pad_token 3; it has to be a text"):
        TextTokenizer(folder, 4)


def test_a_sentencepiece_file_without_its_package_is_refused_by_name(tmp_path, monkeypatch):
    (tmp_path / "spiece.model").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install sentencepiece"):
        TextTokenizer(tmp_path, 4)


def test_a_text_that_is_not_utf_8_is_refused_before_the_library_sees_it(folder):
    with pytest.raises(UserError, match="text 2 has the byte 0xe9, which is not UTF-8"):
        TextTokenizer(folder, 4)(["caf\u00e9", "caf\udce9"])
