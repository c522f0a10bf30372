"""Plugins: discover, load and check them, call their hooks, contain their failures, and account for their time.

- `discovery`: which are installed and whether they can run here, from metadata alone;
- `loading`: import and configure those that a config names;
- `verify`: refuse misspelled hooks and arguments before anything is called;
- `bus`: the calls of one run; `account`: what they cost; `run`: what hooks are handed.

A plugin is a class behind an entry point of the group `longline`:

    [project.entry-points.longline]
    swanlab = "longline_swanlab.plugin:SwanLabPlugin"
"""

from longline.plugins.account import Account, HookCost
from longline.plugins.base import LoadedPlugin, Plugin, PluginConfig
from longline.plugins.bus import Bus, Contained, HookCall, HookError, HookRelay
from longline.plugins.discovery import PluginInfo, conflicts, installed, unusable
from longline.plugins.loading import (
    import_plugin,
    load_plugins,
    option_models,
    plugin_findings,
    plugin_plans,
    plugin_problems,
    refuse_problems,
)

__all__ = [
    "Account",
    "Bus",
    "Contained",
    "HookCall",
    "HookCost",
    "HookError",
    "HookRelay",
    "LoadedPlugin",
    "Plugin",
    "PluginConfig",
    "PluginInfo",
    "conflicts",
    "import_plugin",
    "installed",
    "load_plugins",
    "option_models",
    "plugin_findings",
    "plugin_plans",
    "plugin_problems",
    "refuse_problems",
    "unusable",
]
