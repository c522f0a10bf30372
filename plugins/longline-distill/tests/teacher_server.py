"""A server around a tiny model that answers as vLLM's completions API does, for as much of it as distillation asks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from longline.testing import Answer, Request, Server


def speaking(folder: Path | str, name: str = "tiny-teacher") -> Callable[[Request], Answer]:
    """What answers requests with the model in `folder`."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def told(text: list[int], k: int) -> list[dict[str, dict[str, float]] | None]:
        with torch.no_grad():
            logs = torch.log_softmax(model(torch.tensor([text])).logits[0].double(), 1)[:-1]
        places: list[dict[str, dict[str, float]] | None] = [None]
        for row, token in zip(logs, text[1:], strict=True):
            named = dict.fromkeys([token, *row.topk(k).indices.tolist()])  # the token itself first, as vLLM has it
            places.append({str(one): {"logprob": row[one].item(), "rank": 1 + int((row > row[one]).sum())} for one in named})
        return places

    def speak(request: Request) -> Answer:
        if request.path == "/v1/models":
            return Answer(content={"object": "list", "data": [{"id": name, "object": "model"}]})
        if request.path != "/v1/completions":
            return Answer(404, {"error": {"message": f"there is no {request.path}"}})
        asked = request.json
        prompts = asked["prompt"] if isinstance(asked["prompt"][0], list) else [asked["prompt"]]
        choices = [
            {"index": at, "text": "?", "finish_reason": "length", "prompt_logprobs": told(text, asked["prompt_logprobs"])}
            for at, text in enumerate(prompts)
        ]
        return Answer(content={"object": "text_completion", "model": name, "choices": choices[::-1]})

    return speak


if __name__ == "__main__":
    torch.set_num_threads(1)
    with Server(speaking(sys.argv[1])).serving() as server:
        print(server.url, flush=True)
        sys.stdin.read()  # until whoever started it goes away
