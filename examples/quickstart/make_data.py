"""Write the quickstart data set: English reminders in, strict JSON out.

    python make_data.py            write train.jsonl and heldout.jsonl here
    python make_data.py --check    fail unless both files are what would be written

A row is one conversation in the OpenAI chat format.  The user asks for a
reminder in everyday words; the assistant answers with one JSON object that
holds the task as it was worded, the day in lower case and the time as a
clock shows it:

    Remind me to water the plants on Friday at half past six in the evening.
    {"task": "water the plants", "day": "friday", "time": "6:30 pm"}

The held-out rows are worded with sentence templates and tasks of their own.
Everything is drawn from a fixed seed, so each run writes the same bytes.
"""

import argparse
import json
import random
import re
import sys
from pathlib import Path

SEED = 20
TRAIN_ROWS = 320
HELDOUT_ROWS = 50
HERE = Path(__file__).resolve().parent

SYSTEM = "Reply with JSON: task, day, time (h:mm am/pm)."

WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
DAYS = [*WEEKDAYS, "today", "tomorrow"]

HOUR_WORDS = [
    "twelve", "one", "two", "three", "four", "five",
    "six", "seven", "eight", "nine", "ten", "eleven",
]  # fmt: skip
HOURS = [hour for hour in range(6, 23) if hour != 12]
SHORT_TIMES = [(hour, minute) for hour in HOURS for minute in (0, 15, 30, 45)]
SPOKEN_TIMES = [(hour, minute) for hour in HOURS for minute in (0, 30)]

# {on_day} becomes "on Friday" or "tomorrow"; {day} becomes "Friday" or "tomorrow".
TRAIN_TEMPLATES = [
    "remind me to {task} {on_day} at {time}",
    "remind me to {task} at {time} {on_day}",
    "remind me {on_day} at {time} to {task}",
    "remind me at {time} {on_day} to {task}.",
    "please remind me to {task} {on_day} at {time}.",
    "please remind me {on_day} to {task} at {time}.",
    "can you remind me to {task} {on_day} at {time}?",
    "can you remind me at {time} {on_day} to {task}?",
    "could you remind me {on_day} to {task} at {time}?",
    "I need to {task} {on_day} at {time}.",
    "I need to {task} at {time} {on_day}.",
    "I have to {task} {on_day}, at {time}.",
    "{on_day} at {time} I have to {task}.",
    "{on_day} I need to {task} at {time}.",
    "don't let me forget to {task} {on_day} at {time}.",
    "don't let me forget: {task}, {day}, {time}.",
    "set a reminder to {task} {on_day} at {time}.",
    "set a reminder for {day} at {time}: {task}",
    "reminder for {day}, {time}: {task}",
    "reminder: {task} {on_day} at {time}",
    "reminder: {task} at {time}, {day}",
    "{time} {day}: {task}",
    "{day} {time}: {task}",
    "{task} {on_day} at {time}",
    "{task}, {day} at {time}",
    "at {time} {on_day} I should {task}.",
    "I want to {task} {on_day} at {time}, remind me.",
    "note to self: {task} at {time} {on_day}.",
    "wake me up {on_day} at {time} so that I can {task}.",
    "tell me to {task} when it is {time} {on_day}.",
]

HELDOUT_TEMPLATES = [
    "please remind me at {time} {on_day} to {task}.",
    "could you remind me to {task} {on_day} at {time}, please?",
    "I must {task} {on_day} at {time}.",
    "{on_day} at {time}, remind me to {task}.",
    "make sure I {task} {on_day} at {time}.",
    "help me remember to {task} at {time} {on_day}.",
    "new reminder: {task}, {time}, {day}",
    "{day} at {time}, {task}",
    "I am supposed to {task} {on_day} at {time}.",
    "add a reminder for {time} {on_day}: {task}",
]

TRAIN_ACTIONS = {
    "ask": ["Nina about the keys", "the doctor for an appointment", "Greg to feed the fish"],
    "back up": ["my laptop", "the photos", "the server"],
    "bake": ["a cake for Emma", "bread", "cookies with the kids"],
    "book": ["a table for two", "a flight to Lisbon", "the meeting room", "a tennis court"],
    "bring": ["the bike to the repair shop", "a jacket", "the slides to the lecture"],
    "buy": ["milk and eggs", "flowers for mom", "a ticket to Berlin", "cough syrup", "stamps"],
    "call": ["the dentist", "my brother", "the plumber", "Mrs. Novak", "the school about Leo"],
    "cancel": ["the gym membership", "the newspaper", "my order of lamps"],
    "change": ["the bed sheets", "the water filter", "my password"],
    "charge": ["the camera", "my phone", "the electric car"],
    "check": ["the oven", "the tire pressure", "the smoke alarm", "in for the flight"],
    "clean": ["the kitchen", "the fish tank", "the coffee machine"],
    "close": ["the garage", "the windows in the attic"],
    "collect": ["the parcel from the post office", "my glasses", "signatures"],
    "defrost": ["the chicken", "the freezer"],
    "drop off": ["the package", "the kids at school", "old clothes at the shelter"],
    "email": ["my boss", "Priya the minutes", "the travel agency"],
    "empty": ["the mailbox", "the compost bin"],
    "feed": ["the cat", "the chickens", "the neighbor's parrot"],
    "finish": ["the history essay", "chapter nine", "the puzzle with dad"],
    "fix": ["the kitchen sink", "the door handle", "the swing"],
    "get": ["a haircut", "a flu shot", "change for the bus"],
    "go": ["for a run", "to the market", "swimming with Ida"],
    "iron": ["my blue shirt", "the curtains"],
    "join": ["the team meeting", "the book club"],
    "lock": ["the back door", "the shed"],
    "make": ["dinner for the kids", "pancakes", "a list of questions"],
    "meet": ["Tom for coffee", "the architect", "Yuki at the museum"],
    "mow": ["the lawn", "grandpa's meadow"],
    "order": ["pizza", "new glasses", "firewood", "a taxi to the airport"],
    "pack": ["my suitcase", "lunch", "the tent and the stove"],
    "paint": ["the door", "the hallway"],
    "pay": ["the rent", "the electricity bill", "Carlos for the tickets"],
    "pick up": ["the laundry", "Leo from school", "a cake in town"],
    "plan": ["the menu", "the trip to Norway"],
    "practice": ["the piano", "my Spanish verbs"],
    "prepare": ["the slides", "the guest room", "an agenda"],
    "print": ["the boarding pass", "the photos for Ada"],
    "read": ["the contract", "the manual of the heat pump"],
    "refill": ["the prescription", "the bird feeder"],
    "renew": ["my passport", "the parking permit"],
    "repair": ["the fence", "the zipper of my coat"],
    "reply": ["to the landlord", "to the email from Hugo"],
    "return": ["the library books", "the drill to Ben"],
    "send": ["the invoice", "Julia the address", "a postcard to Kyoto"],
    "sign": ["the lease", "the form for the school trip"],
    "start": ["the dishwasher", "the backup", "the dough for the pizza"],
    "study": ["for the math exam", "the map of the city"],
    "submit": ["the tax form", "the expense report"],
    "take": ["my vitamins", "out the trash", "the bread out of the freezer", "a picture of the meter"],
    "talk": ["to the accountant", "to Fatima about the budget"],
    "thank": ["Sarah for the gift", "the volunteers"],
    "transfer": ["money to Paul", "the domain"],
    "turn": ["off the heating", "on the sprinkler"],
    "update": ["the spreadsheet", "my address at the bank"],
    "vacuum": ["the living room", "the stairs"],
    "visit": ["grandma", "the new bakery", "Stefan in the hospital"],
    "walk": ["the dog", "to the lake with Rosa"],
    "wash": ["the car", "the wool sweater"],
    "watch": ["the chess final", "the video about bees"],
    "water": ["the plants", "the tomatoes on the terrace"],
    "wrap": ["the presents", "a book for Noah"],
    "write": ["to Mr. Lopez", "a thank you card", "the weekly summary"],
}
TRAIN_TASKS = [f"{verb} {rest}" for verb, rests in TRAIN_ACTIONS.items() for rest in rests]

HELDOUT_TASKS = [
    "shovel the snow", "phone the bank", "give the rabbit fresh hay", "pick up a birthday card",
    "unload the dryer", "ring aunt Clara", "borrow a ladder from Max", "rehearse my speech",
    "dust the shelves", "water the cactus", "order cat litter", "fill in the visa form",
    "polish my boots", "take the pills", "post the letter", "freeze the soup", "hand in the homework",
    "trim the hedge", "reserve a hotel room in Rome", "buy tickets for the concert", "swap the tires",
    "peel the potatoes", "check the weather", "scan the receipts", "bring a salad to the party",
    "descale the kettle", "meditate for five minutes", "install the update", "mail the package to Oscar",
    "cook rice", "message the babysitter", "sweep the balcony", "oil the bike chain",
    "draw a map for the guests", "inspect the roof", "congratulate Maya", "fold the towels",
    "sell the old sofa", "mix the dough", "apply for the scholarship", "assemble the bookcase",
    "greet the new intern", "restart the router", "knit a scarf", "catch the train to Leeds",
    "cut the dog's nails", "rinse the lentils", "record the podcast", "find the spare key", "hide the eggs",
]  # fmt: skip


def full_style(hour, minute):
    """Write a time in full, as the answers do: "6:30 pm", "7:00 am"."""
    return f"{hour % 12 or 12}:{minute:02d} {'am' if hour < 12 else 'pm'}"


def short_style(hour, minute):
    """Write a time without the minutes of a full hour: "6:30 pm", "7 am"."""
    return full_style(hour, minute).replace(":00", "")


def spoken_style(hour, minute):
    """Say a time in words: "half past six in the evening"."""
    past = {0: "", 30: "half past "}[minute]
    return f"{past}{HOUR_WORDS[hour % 12]} {part_of_day(hour)}"


def part_of_day(hour):
    """Name the part of the day that an hour belongs to."""
    if hour < 12:
        return "in the morning"
    if hour < 18:
        return "in the afternoon"
    return "in the evening"


def shuffled_forever(rng, items):
    """Yield the items in random order, every one once before any comes again."""
    while True:
        deck = list(items)
        rng.shuffle(deck)
        yield from deck


def sentence(template, task, day, time):
    """Fill a template and start it with a capital letter."""
    on_day = f"on {day}" if day in WEEKDAYS else day
    text = template.format(task=task, day=day, on_day=on_day, time=time)
    return text[0].upper() + text[1:]


def row(question, answer):
    """Build one conversation in the OpenAI chat format."""
    return {
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": question},
            {"role": "assistant", "content": json.dumps(answer)},
        ]
    }


def make_rows(rng, count, templates, tasks):
    """Draw ``count`` rows that use templates, tasks, days and times evenly."""
    decks = [shuffled_forever(rng, items) for items in (templates, tasks, DAYS)]
    times = spelled_times(rng)
    rows = []
    for _ in range(count):
        template, task, day = (next(deck) for deck in decks)
        asked, answered = next(times)
        question = sentence(template, task, day, asked)
        rows.append(row(question, {"task": task, "day": day.lower(), "time": answered}))
    return rows


def spelled_times(rng):
    """Yield a time as it is asked for and as it is answered, in both styles equally often."""
    decks = {
        short_style: shuffled_forever(rng, SHORT_TIMES),
        spoken_style: shuffled_forever(rng, SPOKEN_TIMES),
    }
    for style in shuffled_forever(rng, decks):
        time = next(decks[style])
        yield style(*time), full_style(*time)


def plain_words(text):
    """Reduce a text to its lower-case words, so that punctuation cannot hide a copy."""
    return " ".join(re.findall(r"[\w'{}]+", text.lower()))


def shared(one, other):
    """Return what two collections of texts have in common, compared word for word."""
    return sorted({plain_words(text) for text in one} & {plain_words(text) for text in other})


def questions(rows):
    """List what the user says in each row."""
    return [message["content"] for row in rows for message in row["messages"] if message["role"] == "user"]


def assert_separate(train, heldout):
    """Stop with an error if the held-out rows repeat anything of the training rows."""
    pairs = {
        "sentence template": (TRAIN_TEMPLATES, HELDOUT_TEMPLATES),
        "task": (TRAIN_TASKS, HELDOUT_TASKS),
        "user sentence": (questions(train), questions(heldout)),
    }
    for what, (one, other) in pairs.items():
        if common := shared(one, other):
            raise SystemExit(f"train and held-out share a {what}: {common[0]!r}")
    for name, rows in (("train", train), ("held-out", heldout)):
        if len(set(questions(rows))) != len(rows):
            raise SystemExit(f"the {name} rows ask the same thing twice")


def build():
    """Return the text of both files by name, after checking that they are separate."""
    train = make_rows(random.Random(SEED), TRAIN_ROWS, TRAIN_TEMPLATES, TRAIN_TASKS)
    heldout = make_rows(random.Random(SEED + 1), HELDOUT_ROWS, HELDOUT_TEMPLATES, HELDOUT_TASKS)
    assert_separate(train, heldout)
    return {"train.jsonl": as_jsonl(train), "heldout.jsonl": as_jsonl(heldout)}


def as_jsonl(rows):
    """Write each row as one line of JSON."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def stale_files(texts):
    """List the files that are missing or differ from what would be written."""
    return [name for name, text in texts.items() if not (HERE / name).is_file() or (HERE / name).read_bytes() != text.encode()]


def main():
    """Write the two files, or with --check compare them."""
    parser = argparse.ArgumentParser(description="Write the quickstart data set.")
    parser.add_argument("--check", action="store_true", help="compare the files instead of writing them")
    texts = build()
    if parser.parse_args().check:
        if stale := stale_files(texts):
            sys.exit(f"not what make_data.py writes: {', '.join(stale)}")
        return
    for name, text in texts.items():
        (HERE / name).write_bytes(text.encode())


if __name__ == "__main__":
    main()
