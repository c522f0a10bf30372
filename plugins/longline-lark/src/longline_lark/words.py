"""What messages say, in each language."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

WORDS: dict[str, dict[str, str]] = {
    "en": {
        "start": "started",
        "complete": "completed",
        "failed": "failed",
        "interrupted": "interrupted",
        "alert": "alert",
        "test": "test message",
        "run": "Run",
        "project": "Project",
        "status": "Status",
        "duration": "Duration",
        "method": "Method",
        "model": "Model",
        "steps": "Steps",
        "epochs": "Epochs",
        "rows": "Rows",
        "tokens": "Tokens",
        "phase": "Failed in",
        "reason": "Error",
        "step": "Step",
        "level": "Level",
        "info": "info",
        "warning": "warning",
        "error": "error",
        "unsent": "Not sent",
        "unsent_value": "{count} earlier messages",
        "open": "Open",
        "resumed": "{step} of {steps}, resumed",
        "repeats": "{count} more like this since the last one.",
        "test_text": "Longline can write to this group.",
        "limit": "{metric} is {value}",
        "limit_for": "{metric} is {value}, {count} log events in a row",
        "stalled": "{metric} is {value}; the best of {count} evaluations ago is still {best}",
        "not_finite": "{metric} is {value}",
        "seconds": "{seconds} s",
        "minutes": "{minutes} min {seconds} s",
        "hours": "{hours} h {minutes} min",
    },
    "zh": {
        "start": "已开始",
        "complete": "已完成",
        "failed": "失败",
        "interrupted": "已中断",
        "alert": "告警",
        "test": "测试消息",
        "run": "运行",
        "project": "项目",
        "status": "状态",
        "duration": "时长",
        "method": "方法",
        "model": "模型",
        "steps": "步数",
        "epochs": "轮数",
        "rows": "样本数",
        "tokens": "词元数",
        "phase": "失败阶段",
        "reason": "错误",
        "step": "步",
        "level": "级别",
        "info": "信息",
        "warning": "警告",
        "error": "错误",
        "unsent": "未送达",
        "unsent_value": "之前的 {count} 条消息",
        "open": "打开",
        "resumed": "{step}/{steps}，断点续训",
        "repeats": "自上一条以来另有 {count} 条相同告警。",
        "test_text": "Longline 可以向本群发送消息。",
        "limit": "{metric} 为 {value}",
        "limit_for": "{metric} 为 {value}，已连续 {count} 次",
        "stalled": "{metric} 为 {value}；最近 {count} 次评估没有改善，最佳值仍为 {best}",
        "not_finite": "{metric} 为 {value}",
        "seconds": "{seconds} 秒",
        "minutes": "{minutes} 分 {seconds} 秒",
        "hours": "{hours} 小时 {minutes} 分",
    },
}


class Words:
    """The words of one language."""

    def __init__(self, language: str) -> None:
        self._words = WORDS[language]

    def __getitem__(self, key: str) -> str:
        return self._words[key]

    def keys(self) -> Iterable[str]:
        """Return what has a word."""
        return self._words.keys()

    def say(self, key: str, values: Mapping[str, Any]) -> str:
        """Return a sentence with its values; numbers as `number` writes them."""
        return self._words[key].format(**{name: number(value) for name, value in values.items()})

    def duration(self, seconds: float) -> str:
        """Return seconds as a person says them."""
        if seconds < 10:
            return self.say("seconds", {"seconds": f"{seconds:.1f}"})
        minutes, rest = divmod(round(seconds), 60)
        if not minutes:
            return self.say("seconds", {"seconds": rest})
        hours, minutes = divmod(minutes, 60)
        key = "hours" if hours else "minutes"
        return self.say(key, {"hours": hours, "minutes": minutes, "seconds": rest})


def number(value: object) -> str:
    """Return a number with four digits that count, whole ones in full; texts as they are."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("infinity" if value > 0 else "-infinity")
    return f"{value:.4g}"
