"""Write the preference pairs of the DPO example: the plain answer is chosen, the one wrapped in boilerplate rejected.

    python make_data.py            write train.jsonl and heldout.jsonl here
    python make_data.py --check    fail unless both files are what would be written

The held-out pairs ask about subjects, and wrap answers in phrases, that no training pair has. A fixed seed: each run writes the
same bytes.
"""

import json
import random
import sys
from pathlib import Path

SEED = 7
TRAIN_ROWS = 160
HELDOUT_ROWS = 40
HERE = Path(__file__).resolve().parent

TRAIN_FACTS = {
    "boil an egg": "Put it into boiling water for eight minutes.",
    "sharpen a kitchen knife": "Draw it along a whetstone at twenty degrees, ten times on each side.",
    "remove a coffee stain": "Dab it with cold water and a drop of dish soap, then rinse.",
    "keep basil alive": "Give it morning sun and water it from below.",
    "fix a squeaky hinge": "Put one drop of oil on the pin and move the door.",
    "store fresh bread": "Wrap it in a cloth and keep it at room temperature.",
    "tie a bowline": "Make a loop, bring the end up through it, around the rope and back down.",
    "clean a window": "Wipe it with vinegar and water, then dry it with newspaper.",
    "patch a bicycle tube": "Roughen the spot, spread glue, wait a minute and press the patch on.",
    "peel a mango": "Cut along the stone and score the halves, then turn them inside out.",
    "start a compost heap": "Layer kitchen scraps with dry leaves and keep it moist.",
    "descale a kettle": "Boil it with one part vinegar and two parts water, then rinse twice.",
    "wash a wool sweater": "Use cold water and mild soap, and dry it flat.",
    "change a light bulb": "Switch the lamp off, let it cool and turn the bulb to the left.",
    "cook rice": "Simmer one part rice in two parts water for fifteen minutes with the lid on.",
    "find north without a compass": "At noon on the northern half of the earth your shadow points north.",
}
HELDOUT_FACTS = {
    "poach a pear": "Simmer it in sweetened water for twenty minutes.",
    "unclog a sink": "Pour in baking soda, then vinegar, and flush with hot water.",
    "prune a rose": "Cut above an outward bud at a slant in early spring.",
    "iron a shirt": "Start with the collar, then the cuffs, the sleeves and the body.",
    "defrost a freezer": "Switch it off, set a bowl of hot water inside and close the door.",
    "read a tide table": "Find the day, then the times and heights of high and low water.",
    "whip cream": "Chill the bowl and beat until soft peaks form.",
    "grease a bicycle chain": "Wipe it dry, oil each link and wipe off the rest.",
}
QUESTIONS = ["How do I {task}?", "What is the best way to {task}?", "Can you tell me how to {task}?", "I want to {task}. How?"]
TRAIN_OPENINGS = [
    "As an AI language model, I am happy to help you with your question.",
    "Great question! That is something many people wonder about.",
    "Thank you for reaching out, I would be delighted to assist you today.",
    "Certainly! Let me walk you through this step by step.",
    "I am so glad that you asked me about this important topic.",
]
TRAIN_ENDINGS = [
    "I hope that this helps! Please let me know if you have any other questions.",
    "Always remember to consult a professional before you try anything.",
    "Feel free to ask me anything else, I am always here for you.",
]
HELDOUT_OPENINGS = ["What a wonderful thing to ask! Allow me to explain.", "Sure thing! I would love to support you with that."]
HELDOUT_ENDINGS = ["Do not hesitate to come back with further questions!", "I wish you lots of success and a fantastic day!"]


def rows(facts: dict[str, str], openings: list[str], endings: list[str], count: int, rng: random.Random) -> list[dict]:
    """Draw `count` different pairs."""
    every = [
        {
            "prompt": [{"role": "user", "content": question.format(task=task)}],
            "chosen": [{"role": "assistant", "content": answer}],
            "rejected": [{"role": "assistant", "content": f"{opening} {answer} {ending}"}],
        }
        for task, answer in facts.items()
        for question in QUESTIONS
        for opening in openings
        for ending in endings
    ]
    return rng.sample(every, count)


def main() -> int:
    """Write or compare both files."""
    rng = random.Random(SEED)
    files = {
        "train.jsonl": rows(TRAIN_FACTS, TRAIN_OPENINGS, TRAIN_ENDINGS, TRAIN_ROWS, rng),
        "heldout.jsonl": rows(HELDOUT_FACTS, HELDOUT_OPENINGS, HELDOUT_ENDINGS, HELDOUT_ROWS, rng),
    }
    stale = []
    for name, made in files.items():
        text = "".join(json.dumps(row) + "\n" for row in made)
        if "--check" in sys.argv[1:]:
            stale += [name] if (HERE / name).read_text(encoding="utf-8") != text else []
        else:
            (HERE / name).write_text(text, encoding="utf-8")
    if stale:
        print(f"not what make_data.py writes: {', '.join(stale)}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
