"""What to do about a model that cannot be loaded: a hint that fits, or none."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from safetensors import SafetensorError

from longline.artifacts import not_written
from longline.config.sections import ModelSection
from longline.errors import ModelError
from longline.model import load_model, load_tokenizer, model_kwargs
from longline.testing import zoo


def refusal(load):
    with pytest.raises(ModelError) as caught:
        load()
    return caught.value


def of_model(folder, **more):
    section = ModelSection(path=str(folder), **more)
    return refusal(lambda: load_model(section, model_kwargs(section, "float32")))


@pytest.fixture
def folder(tmp_path, tiny_model_dir):
    """A copy of the tiny model, to be broken."""
    return shutil.copytree(tiny_model_dir, tmp_path / "broken")


def edit(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_folder_without_config(folder):
    (folder / "config.json").unlink()
    assert of_model(folder).hint == ("there is no config.json in it, it holds no model: give one with config.json and weights")
    (folder / "adapter_config.json").write_text("{}")
    assert "an adapter alone: merge it, or give its base" in of_model(folder).hint


def test_a_config_that_is_no_json(folder):
    (folder / "config.json").write_text("{")
    assert of_model(folder).hint == "its config.json cannot be read as JSON: fetch it again"


def test_a_model_type_that_transformers_does_not_know(folder):
    edit(folder, model_type="lama", architectures=None)
    hint = of_model(folder).hint
    assert "knows no model type 'lama': did you mean 'llama'?" in hint
    edit(folder, model_type="quite_another_thing_from_the_future")
    assert "a newer one may" in of_model(folder).hint
    edit(folder, auto_map={"AutoConfig": "configuration_other.OtherConfig"})
    assert "model.trust_remote_code" in of_model(folder).hint


@pytest.mark.parametrize("left", [0, 5, 2000])
def test_weights_that_are_cut(folder, left):
    (path,) = folder.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:left])
    assert of_model(folder).hint == "a file of weights is damaged or not whole: fetch it again"


def test_a_folder_without_weights_is_told_in_the_librarys_words_alone(folder):
    (path,) = folder.glob("*.safetensors")
    path.unlink()
    error = of_model(folder)
    assert error.hint is None
    assert "model.safetensors" in error.message


def test_a_tokenizer_that_is_damaged_is_no_matter_of_the_network(folder):
    (folder / "tokenizer.json").write_text("{")
    assert refusal(lambda: load_tokenizer(ModelSection(path=str(folder)))).hint is None


def test_an_attention_that_the_class_does_not_have(tmp_path):
    zoo.build("gemma2").save_pretrained(tmp_path)
    error = of_model(tmp_path, attn_implementation="sdpa")
    assert error.message == "model.attn_implementation: Gemma2ForCausalLM has no sdpa"
    assert error.hint.startswith("leave it out, or use eager or flex_attention")


def test_a_folder_of_gguf_files_asks_for_one(folder):
    (folder / "config.json").unlink()
    (folder / "weights.gguf").write_bytes(b"GGUF")
    assert of_model(folder).hint == "it holds .gguf files: name the one to load with model.gguf_file"
    assert of_model(folder, gguf_file="weights.gguf").hint is None


def test_a_tokenizer_of_its_own_is_not_judged_by_the_models_folder(folder, tmp_path):
    (folder / "config.json").unlink()
    section = ModelSection(path=str(folder), tokenizer={"path": str(tmp_path / "none")})
    assert "config.json" not in str(refusal(lambda: load_tokenizer(section)).hint)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "free space"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "free space"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "let it be written"),
    ],
)
def test_space_is_asked_for_only_where_it_is_missing(tmp_path, error, remedy):
    assert not_written(error, tmp_path / "checkpoint-1").hint.startswith(f"{remedy} and run again")


class Hub(BaseHTTPRequestHandler):
    """Refuses as the hub does: by status and the header X-Error-Code."""

    def do_HEAD(self):
        owner = self.path.split("/")[1]
        code = {"gated": (403, "GatedRepo"), "absent": (404, "RepoNotFound"), "older": (404, "RevisionNotFound")}[owner]
        self.send_response(code[0])
        self.send_header("X-Error-Code", code[1])
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD  # noqa: N815

    def log_message(self, *args):
        pass


ASK = """
import sys
from longline.config.sections import ModelSection
from longline.errors import ModelError
from longline.model import model_kwargs
for path in sys.argv[1:]:
    try:
        model_kwargs(ModelSection(path=path), "float32")
    except ModelError as error:
        print(error.hint)
"""


def ask(tmp_path, *paths, **environ):
    clean = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environ = {**clean, "HF_HOME": str(tmp_path), "NO_PROXY": "*", **environ}
    command = [sys.executable, "-c", ASK, *paths]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout.splitlines()


def test_what_the_hub_says_decides(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        found = ask(tmp_path, "gated/x", "absent/x", "older/x", HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
    gated, absent, older = found
    assert gated.startswith("accept its terms on the hub")
    assert absent.startswith("check model.path; one that is private")
    assert older == "check model.revision"


def test_without_a_network_the_network_is_named(tmp_path):
    assert ask(tmp_path, "owner/x", HF_HUB_OFFLINE="1") == [
        "HF_HUB_OFFLINE is set and it is not in the cache: unset it, or give a local folder"
    ]
