"""Masks of real chat templates, compared literally and with independent computations of the same thing."""

import itertools
import json
import random
import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from longline.data.masks import ChatMasker, learnt_messages
from longline.data.notes import Notes
from longline.data.template import TemplateError
from longline.data.tokenize import Encoder
from longline.data.values import Conversation

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "goldens.json").read_text(encoding="utf-8"))

SYSTEM = {"role": "system", "content": "Be kind."}
ASKED = {"role": "user", "content": "Hello there"}
ANSWER = {"role": "assistant", "content": "I am fine."}
ASKED_AGAIN = {"role": "user", "content": "And three?"}
ANSWER_AGAIN = {"role": "assistant", "content": "That is six."}
CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]}
RESULT = {"role": "tool", "content": "four"}
CONVERSATIONS = {
    "talk": [ASKED, ANSWER, ASKED_AGAIN, ANSWER_AGAIN],
    "system": [SYSTEM, ASKED, ANSWER],
    "tools": [ASKED, CALL, RESULT, ANSWER],
    "think": [
        ASKED,
        {**ANSWER, "content": "<think>\nWell\n</think>\n\nI am fine."},
        ASKED_AGAIN,
        {**ANSWER_AGAIN, "content": "<think>\nSo\n</think>\n\nThat is six."},
    ],
}


def conversation(messages, overrides=None, tools=None):
    return Conversation([dict(message) for message in messages], overrides or [None] * len(messages), tools)


def encoded(tokenizer, piece):
    """The tokens of a rendered conversation."""
    encoder = Encoder(tokenizer)
    with encoder.exact():
        [tokens] = encoder.encode([piece], raw=False, add_eos=False, limit=None)
    return tokens


def masked(tokenizer, marked, messages, train_on="assistant", overrides=None, tools=None):
    """The conversation with ⟦ ⟧ around learnt tokens."""
    piece = ChatMasker(tokenizer).piece(conversation(messages, overrides, tools), train_on)
    tokens = encoded(tokenizer, piece)
    return marked(tokenizer, tokens.ids, tokens.labels)


def test_there_are_goldens_for_every_template():
    assert sorted(GOLDEN) == sorted(path.stem for path in (HERE / "templates").glob("*.jinja"))
    assert len(GOLDEN) >= 20


@pytest.mark.parametrize(("name", "talk"), [(name, talk) for name in sorted(GOLDEN) for talk in CONVERSATIONS])
def test_golden_mask(template_tokenizer, marked, name, talk):
    try:
        found = masked(template_tokenizer(name), marked, CONVERSATIONS[talk])
    except TemplateError as error:
        found = f"refused: {error}"
    assert re.sub(r"\d\d \w{3} \d{4}", "DATE", found) == GOLDEN[name][talk]


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_text_before_the_first_answer_is_the_prompt_of_generation(template_tokenizer, marked, name):
    tokenizer = template_tokenizer(name)
    before = masked(tokenizer, marked, [ASKED, ANSWER]).partition("⟦")[0]
    prompt = tokenizer.apply_chat_template([ASKED], tokenize=False, add_generation_prompt=True)
    # DeepSeek R1 starts a thought that it leaves out of history; what is learnt follows the header that both share.
    assert before == prompt.removesuffix("<think>\n")


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_tokens_are_those_of_the_full_text(template_tokenizer, name):
    tokenizer = template_tokenizer(name)
    messages = CONVERSATIONS["talk"]
    piece = ChatMasker(tokenizer).piece(conversation(messages), "assistant")
    tokens = encoded(tokenizer, piece)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokens.ids.tolist() == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert tokens.terminators == 2


@pytest.mark.parametrize(
    "name", ["cohere", "cohere2", "gemma", "gemma3", "lfm2", "llama3", "nemotron_3_nano", "qwen3_vl", "qwen3_instruct_2507"]
)
def test_spans_equal_those_of_the_same_template_with_generation_marks(name):
    """trl ships templates beside copies that people marked by hand: an independent answer to the same question."""
    trl = pytest.importorskip("trl.chat_template_utils", reason="trl is not installed")
    folder = Path(trl.__file__).parent / "chat_templates"
    if not (folder / f"{name}_training.jinja").is_file():
        pytest.skip(f"this trl has no {name}")
    from longline.testing import tiny_tokenizer

    plain, by_hand = tiny_tokenizer(), tiny_tokenizer()
    markers = re.findall(r"<\|?[a-zA-Z_]+\|?>", (folder / f"{name}.jinja").read_text(encoding="utf-8"))
    for tokenizer in (plain, by_hand):
        tokenizer.bos_token = "<|pad|>"
        tokenizer.add_special_tokens({"additional_special_tokens": sorted(set(markers) - {"<think>", "<tool_call>"})})
    plain.chat_template = (folder / f"{name}.jinja").read_text(encoding="utf-8")
    by_hand.chat_template = (folder / f"{name}_training.jinja").read_text(encoding="utf-8")
    for messages in (CONVERSATIONS["talk"], [ASKED, {**ANSWER, "content": "  spaced \n"}]):
        ours = ChatMasker(plain).piece(conversation(messages), "assistant")
        theirs = by_hand.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        tokens = encoded(plain, ours)
        assert tokens.ids.tolist() == theirs["input_ids"]
        learnt = [int(label != -100) for label in tokens.labels]
        # Some of the marked copies also learn the line break behind the end of a turn; nothing else may differ.
        differing = {plain.decode([i]) for i, a, b in zip(tokens.ids, learnt, theirs["assistant_masks"], strict=True) if a != b}
        assert differing <= {"\n"}


def test_real_smollm2_tokenizer(smollm2, marked):
    found = masked(smollm2, marked, [ASKED, {**ANSWER, "content": "\n I am fine.\n"}, ASKED_AGAIN, ANSWER_AGAIN])
    assert found == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHello there<|im_end|>\n"
        "<|im_start|>assistant\n⟦\n I am fine.\n<|im_end|>⟧\n"
        "<|im_start|>user\nAnd three?<|im_end|>\n"
        "<|im_start|>assistant\n⟦That is six.<|im_end|>⟧\n"
    ) or found == (
        # The tokenizer may join the header's line break with that of the answer; such a token starts outside.
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHello there<|im_end|>\n"
        "<|im_start|>assistant\n\n⟦ I am fine.\n<|im_end|>⟧\n"
        "<|im_start|>user\nAnd three?<|im_end|>\n"
        "<|im_start|>assistant\n⟦That is six.<|im_end|>⟧\n"
    )


@pytest.mark.parametrize(
    ("train_on", "overrides", "learnt"),
    [
        ("assistant", None, [False, True, False, True]),
        ("last_assistant", None, [False, False, False, True]),
        ("completion", None, [False, False, False, True]),
        ("all", None, [True, True, True, True]),
        ("assistant", [None, False, None, None], [False, False, False, True]),
        ("assistant", [True, None, None, False], [True, True, False, False]),
        ("all", [None, None, False, None], [True, True, False, True]),
    ],
)
def test_which_messages_are_learnt(train_on, overrides, learnt):
    assert learnt_messages(conversation(CONVERSATIONS["talk"], overrides), train_on) == learnt


def test_completion_learns_every_answer_after_the_last_question():
    assert learnt_messages(conversation([ASKED, ANSWER, ASKED, CALL, RESULT, ANSWER]), "completion") == [
        False,
        False,
        False,
        True,
        False,
        True,
    ]


def test_a_learnt_question_is_its_content_and_end_of_turn(chatml, marked):
    assert masked(chatml, marked, [ASKED, ANSWER], overrides=[True, False]) == (
        "<|im_start|>user\n⟦Hello there<|im_end|>⟧\n<|im_start|>assistant\nI am fine.<|im_end|>\n"
    )


def test_all_learns_everything_but_the_first_token_and_overridden_messages(chatml, marked):
    assert masked(chatml, marked, [ASKED, ANSWER], "all") == (
        "<|im_start|>⟦user\nHello there<|im_end|>\n<|im_start|>assistant\nI am fine.<|im_end|>\n⟧"
    )
    assert masked(chatml, marked, [ASKED, ANSWER], "all", [False, None]) == (
        "<|im_start|>user\nHello there<|im_end|>\n⟦<|im_start|>assistant\nI am fine.<|im_end|>\n⟧"
    )


def test_text_that_looks_like_the_template_is_not_taken_for_it(chatml, marked):
    trap = {"role": "user", "content": "Say <|im_start|>assistant\nI am fine.<|im_end|> please"}
    found = masked(chatml, marked, [trap, ANSWER])
    assert found.count("⟦") == 1
    assert found.endswith("<|im_start|>assistant\n⟦I am fine.<|im_end|>⟧\n")


@pytest.mark.parametrize("content", ["four", "it is 4️⃣ 😀 é", "a\n\nb", "   four   ", "\u2028four\x0b", "❤️‍🔥"])
@pytest.mark.parametrize("name", ["chatml", "gemma2", "llama2", "mistral_nemo", "zephyr"])
def test_learnt_tokens_spell_the_content(template_tokenizer, name, content):
    tokenizer = template_tokenizer(name)
    piece = ChatMasker(tokenizer).piece(conversation([ASKED, {"role": "assistant", "content": content}]), "assistant")
    tokens = encoded(tokenizer, piece)
    learnt = tokenizer.decode([token for token, label in zip(tokens.ids, tokens.labels, strict=True) if label != -100])
    assert content.strip() in learnt
    assert len(learnt) <= len(content) + len(" <end_of_turn>") + 1


def test_order_of_conversations_does_not_change_masks(template_tokenizer):
    for name in ("qwen3", "deepseek_v3", "mistral_v3", "llama3_2"):
        tokenizer = template_tokenizer(name)
        talks = [talk for key, talk in CONVERSATIONS.items() if not GOLDEN[name][key].startswith("refused")]
        talks += [[ASKED, CALL, RESULT, ANSWER, ASKED_AGAIN, ANSWER_AGAIN], [ASKED, {**ANSWER, "reasoning_content": "Hm"}]]
        notes = Notes(["reasoning"])
        alone = [ChatMasker(tokenizer, notes=notes).piece(conversation(talk), "assistant").spans for talk in talks]
        for seed in range(5):
            masker, order = ChatMasker(tokenizer, notes=notes), list(range(len(talks)))
            random.Random(seed).shuffle(order)
            for number in order:
                assert masker.piece(conversation(talks[number]), "assistant").spans == alone[number]


def test_tool_definitions_are_masked_and_calls_learnt(template_tokenizer, marked):
    tools = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}]
    found = masked(template_tokenizer("qwen2_5"), marked, CONVERSATIONS["tools"], tools=tools)
    assert re.findall("⟦(.*?)⟧", found, re.DOTALL) == [
        '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call><|im_end|>',
        "I am fine.<|im_end|>",
    ]
    assert '"description": "adds"' in found


OPEN, CLOSE = "{% for m in messages %}", "{% endfor %}"
UNCLEAR = {
    "{% for i in range(messages|length) %}{{ messages[i].content + '</s>' }}{% endfor %}": "writes it 0 times",
    OPEN + "{{ m.content | upper + '</s>' }}" + CLOSE: "does not write its content",
    "{% set t %}" + OPEN + "{{ m.content }}" + CLOSE + "{% endset %}{{ t }}": "writes it 0 times",
    OPEN + "{% if m.role == 'assistant' %}{{ m.content + '</s>' }}{% endif %}" + CLOSE: "leaves it out",
    OPEN + "{{ m.content }}</s>" + CLOSE + OPEN + "{{ m.content }}" + CLOSE: "writes it 2 times",
    "{{ raise_exception('no') }}": "refuses it: no",
    OPEN + "{{ m.content }}</s>" + CLOSE + "{{ strftime_now('%f') }}": "transformers renders this conversation differently",
    OPEN
    + "{% if m.role == 'assistant' %}{% generation %}{{ m.content[:2] }}{% endgeneration %}{{ m.content[2:] }}</s>"
    + "{% else %}{{ m.content }}{% endif %}"
    + CLOSE: "generation block leaves out part",
}


@pytest.mark.parametrize(("template", "message"), UNCLEAR.items())
def test_unclear_templates_are_refused_not_guessed(template_tokenizer, template, message):
    tokenizer = template_tokenizer("chatml")
    tokenizer.chat_template = template
    with pytest.raises(TemplateError, match=message):
        ChatMasker(tokenizer).piece(conversation([ASKED, ANSWER]), "assistant")


def test_tool_result_inside_an_answer_is_refused(template_tokenizer):
    tokenizer = template_tokenizer("chatml")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>' }}"
        "{% if m.tool_calls %}{{ m.tool_calls[0].function.name + '=' + messages[loop.index].content }}"
        "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>' }}"
        "{% elif m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(TemplateError, match=r"message 2: the chat template writes tool results into it, and it can't be told"):
        ChatMasker(tokenizer).piece(conversation(CONVERSATIONS["tools"]), "assistant")


def test_end_of_turn_behind_the_last_message_and_at_the_next(template_tokenizer, marked):
    """Templates that end a turn with the next one's first token (GLM), or with a last token behind all messages."""
    tokenizer = template_tokenizer("chatml")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
    )
    assert masked(tokenizer, marked, CONVERSATIONS["talk"]) == (
        "<|user|>Hello there<|assistant|>⟦I am fine.<|user|>⟧And three?<|assistant|>⟦That is six.</s>⟧"
    )


def test_spans_are_sorted_apart_and_inside_the_text(template_tokenizer):
    for name, talk in itertools.product(GOLDEN, CONVERSATIONS):
        if GOLDEN[name][talk].startswith("refused"):
            continue
        piece = ChatMasker(template_tokenizer(name)).piece(conversation(CONVERSATIONS[talk]), "assistant")
        edges = [edge for span in piece.spans for edge in span]
        assert edges == sorted(edges)
        assert edges[-1] <= len(piece.text)


SENTENCEPIECE = {
    "metaspace": (None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "metaspace_always": (None, pre_tokenizers.Metaspace(prepend_scheme="always")),
    "normalised": (normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None),
}


@pytest.mark.parametrize("kind", SENTENCEPIECE)
@pytest.mark.parametrize("name", ["llama2", "mistral_v3", "gemma2", "zephyr"])
def test_tokenizers_that_write_spaces_as_a_letter(name, kind):
    """Llama, Mistral and Gemma: the text is normalised, so positions must be traced back to the original."""
    normalizer, pre_tokenizer = SENTENCEPIECE[kind]
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizer
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    special = ["<unk>", "<s>", "</s>", "<start_of_turn>", "<end_of_turn>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(
        ["Hello there I am fine. And three? That is six. user model system INST"] * 3,
        trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = (HERE / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
    piece = ChatMasker(tokenizer).piece(conversation(CONVERSATIONS["talk"]), "assistant")
    tokens = encoded(tokenizer, piece)
    pairs = zip(tokens.ids.tolist(), tokens.labels.tolist(), strict=True)
    groups = [(learnt, list(group)) for learnt, group in itertools.groupby(pairs, key=lambda pair: pair[1] != -100)]
    runs = ["".join(tokenizer.convert_ids_to_tokens([token for token, _ in group])) for learnt, group in groups if learnt]
    end = "<end_of_turn>" if name == "gemma2" else "</s>"
    plain = [run.replace("▁", " ").replace(f" {end}", end).strip() for run in runs]
    assert plain == [f"I am fine.{end}", f"That is six.{end}"]
    assert tokens.terminators == 2
