"""The options of the plugin, as they stand under its name in a config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from longline import PluginConfig

Divergence = Literal["forward_kl", "reverse_kl", "jsd"]
Layout = Literal["auto", "vllm", "openai", "arrays", "recorded"]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def recorded(column: str) -> tuple[str, str]:
    """The columns of what was recorded: token ids, and their log probabilities."""
    return f"{column}_ids", f"{column}_logprobs"


class TeacherConfig(PluginConfig):
    """A teacher in this process."""

    path: str
    """A folder, a .gguf file or a hub id."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    """Left out: as `model.dtype`."""
    quantization: dict[str, Any] | None = None
    """As `model.quantization`."""


class ServerConfig(PluginConfig):
    """A teacher behind an OpenAI-compatible server that gives log probabilities of prompts: vLLM or SGLang."""

    url: str
    """With or without `/v1`: http://127.0.0.1:8000."""
    model: str | None = None
    """Left out: the one model that the server has."""
    api_key: SecretStr | None = None
    """Sent as a bearer token."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Requests at the same time."""
    timeout: Positive = 60.0
    """Seconds that one request may take."""
    retries: Annotated[int, Field(ge=0, le=100)] = 5
    """How often a request is tried again that was not answered, or with 429 or 5xx; the wait doubles from half a second."""
    cache: Path | None = None
    """A folder in which answers are kept, so that the next epoch or run does not ask again. Left out: in memory, for this run."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return url.rstrip("/").removesuffix("/v1")


class OnPolicyConfig(PluginConfig):
    """Answers that the student draws itself, in the place of those of the data."""

    share: Share
    """Of how many batches."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    """How long an answer may be."""
    temperature: Positive = 1.0
    """At which answers are drawn."""


class DistillConfig(PluginConfig):
    """Who teaches, and how much of the loss is the teacher's. One of `teacher`, `server` and `column` is needed."""

    teacher: TeacherConfig | None = None
    """A model in this process; a path alone will do."""
    server: ServerConfig | None = None
    """A model behind a server."""
    column: str | None = None
    """The column of the data that holds the teacher's log probabilities."""
    layout: Layout = "auto"
    """Of `column`. `vllm`: prompt_logprobs or logprobs as vLLM answers. `openai`: logprobs of a chat completion. `arrays`: a
    list of [token id, log probability] pairs for each token. `recorded`: what `longline distill record` wrote; then `column` is
    the name before `_ids` and `_logprobs`. `auto`: seen on each row, recorded excepted."""
    alpha: Share = 0.5
    """How much of the loss is the divergence from the teacher; the rest is the cross entropy of the data."""
    temperature: Positive = 1.0
    """Of both distributions; the divergence counts times its square."""
    divergence: Divergence = "forward_kl"
    """`forward_kl`: KL(teacher, student). `reverse_kl`: KL(student, teacher). `jsd`: the generalised Jensen-Shannon divergence."""
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of jsd: beta KL(teacher, m) + (1 - beta) KL(student, m) with m = beta teacher + (1 - beta) student."""
    top_k: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Compare the k likeliest tokens of the teacher, and all others as one. Left out: a local teacher's whole distribution,
    20 of a server, as many as a column has at most 64 of."""
    on_misaligned: Literal["refuse", "skip"] = "refuse"
    """A row whose tokens are not those that the teacher answered: end the run, or learn its labels alone, and count it."""
    on_policy: OnPolicyConfig | None = None
    """Draw answers from the student, for some batches."""
    chunk_tokens: Annotated[int, Field(ge=1)] | None = None
    """How many tokens have logits at the same time. Left out: as many as 32 MiB of float32 logits hold, on a GPU 256."""

    @field_validator("teacher", mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    # By values, not by what is set: a saved config writes defaults out.
    @model_validator(mode="after")
    def _belong_together(self) -> DistillConfig:
        given = [name for name in ("teacher", "server", "column") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"needs one of teacher, server and column, and has {found}")
        if self.column is None and self.layout != "auto":
            raise ValueError("layout belongs to column; remove it")
        if self.divergence != "jsd" and self.beta != 0.5:
            raise ValueError(f"beta belongs to divergence: jsd, not to {self.divergence}; remove one of them")
        if self.temperature != 1 and self.server is not None:
            raise ValueError(
                "a server gives its k likeliest tokens at temperature 1; remove temperature, or use a local teacher"
            )
        if self.temperature != 1 and self.column is not None and self.layout != "recorded":
            raise ValueError(
                "log probabilities of a column are those of temperature 1; remove temperature, or record some with it"
            )
        if self.on_policy is not None and self.column is not None:
            raise ValueError("on_policy draws new answers, which the column of the data says nothing about; remove one of them")
        if self.layout == "recorded" and self.top_k is None:
            raise ValueError("layout: recorded needs top_k, as it was recorded with")
        return self

    @property
    def k(self) -> int | None:
        """How many tokens of the teacher are compared; None for all."""
        if self.top_k is not None or self.teacher is not None:
            return self.top_k
        return 20 if self.server is not None else 64
