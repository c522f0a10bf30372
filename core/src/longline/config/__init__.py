"""From YAML to a checked, frozen `Config`; torch-free.

    loaded = longline.config.loader.load_config("config.yaml", ["trainer.learning_rate=1e-4"])

The modules: `document` YAML with places, `sections` what may be written, `fields` what transformers and peft accept, `checks`
what must fit together, `explain` messages, `loader` all of them in order; `secrets`, `dump` and `schema` lead out again.
"""
