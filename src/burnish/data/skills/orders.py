"""The quickstart's skill: a customer's sentence becomes an order in JSON.

The instructions stand in the system prompt, so that a person who has read only them can answer every
question. Training and held-out rows share no sentence pattern, no greeting, and no word of an item or a name;
the held-out rows also use quantities that training never shows.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "test"]

SCHEMA = (
    'Turn the order into JSON: {"quantity": integer, "size": small, medium, large or null, '
    '"item": as written, lowercase, "name": first name or null}. Write nothing else.'
)
KEYS = ("quantity", "size", "item", "name")
SIZES = ("small", "medium", "large")


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The words of one split.

    What stands in [brackets] is left out of half of the sentences. The slots of a pattern:
    {thing} quantity, size (half of the time) and item; {count} the quantity alone ("two", "a");
    {number} a quantity that needs no noun ("two", never "a"); {size}; {item} singular or plural, as the
    quantity asks; {plural} the item in the plural; {name}. Without {name} the sentence names nobody.
    """

    patterns: tuple[str, ...]
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    items: tuple[str, ...]
    names: tuple[str, ...]
    counts: tuple[tuple[str, int], ...]
    numbers: tuple[tuple[str, int], ...]


def _words(text: str) -> tuple[str, ...]:
    """Split a list that is written with commas."""
    return tuple(text.split(", "))


TRAIN = Lexicon(
    patterns=(
        "{thing}, please.",
        "I'd like {thing}.",
        "Can I get {thing}?",
        "Could I have {thing}? The name is {name}.",
        "This is {name}. I want {thing}.",
        "{name} here, I'll take {thing}.",
        "May I order {thing}?",
        "We need {thing}[ for {name}].",
        "{thing} for {name}, please.",
        "Put {name} down for {thing}.",
        "I'll have {thing}, and please be quick.",
        "Can you make me {thing}? My name is {name}.",
        "{count} {item}, {size}.",
        "{count} {item}, {size}, for {name}.",
        "Order for {name}: {thing}.",
        "Let me think... {thing}.",
        "{size} {item}, {number} of them, name {name}.",
        "Please give me {thing} and write {name} on the bag.",
        "My friend told me to try your {plural}, so I'll have {number}[, {size}].",
        "Are there any {plural} left? I'd take {number}.",
        "About the {plural}: I need {number}, all {size}[, for {name}].",
        "I am so happy. Get me {thing}!",
        "It's {name} again. Same as last week, {thing}.",
        "Would you pack {thing} for me? I'm {name}.",
        "How much is that? Fine, I'll take {thing}.",
        "You can call me {name}. What I want today is {thing}.",
        "Make that {thing}, and hurry.",
        "The {plural} look great! Give me {number}.",
        "Just {thing} for me, nothing more.",
        "I want to order {plural}. {number}, {size}. Put it under {name}.",
        "We'll take {thing}. Nothing else.",
        "Can {name} have {thing}?",
        "{name} wants {thing}.",
        "Send {thing} to the house on the corner. It goes to {name}.",
        "It is my birthday, so {thing}!",
        "{name}, ordering {thing}.",
        "How about {thing}?",
        "I was hoping for {thing}[, {name}'s favourite].",
        "On behalf of {name}: {thing}.",
        "{plural}: {number}. Size: {size}.",
        "{plural}: {number}. Name: {name}.",
        "Could you do {count} {item} in the {size} size?",
        "{count} {item}, the {size} kind, for my wife {name}.",
        "I see {plural} on the board. I'll go with {number}[ for {name}].",
        "The kids want {thing}.",
        "{thing} to go.",
        "One order to go, under the name of {name}: {thing}.",
        "For the party I'll get {thing}.",
        "I need a present: {thing}.",
        "{number} {size} {item}. Tell them it's from {name}.",
        "Two days ago the {plural} were superb. Today I'm getting {number}.",
        "My husband {name} is asking for {thing}.",
        "We are a big group and need {thing}.",
        "I changed my mind: {thing}[, and it's for {name}].",
        "You know what? {thing}.",
        "Please prepare {thing}.",
        "{name} would love {thing}.",
        "Can I order ahead? {thing}, pick up by {name}.",
        "I'd go for {size} on the {plural}. {number} in total.",
        "If you have {plural}, I'll buy {number}[ for {name}].",
        "Quick one: {thing}. {name} is the name.",
        "Hmm, {thing}, I think.",
        "{thing}, and that will be it.",
        "Chef {name} needs {thing}.",
        "Grandma {name} wishes for {thing}.",
        "Our neighbour {name} asked for {thing}.",
        "Bring my son {name} {thing}.",
        "Get {name} {thing}, thanks.",
        "Doctor {name} is here for {thing}.",
        "The new {plural}, please, {number}. If you can, {size}.",
    ),
    openers=("Hi!", "Hello.", "Good morning.", "Hey there.", "Excuse me.", "OK.", "Hi, how are you?"),
    closers=("Thanks!", "Thank you very much.", "That's all.", "I'm in a hurry.", "Bye!"),
    items=_words(
        "bagel, latte, espresso, brownie, sandwich, pancake, cheesecake, cookie, milkshake, pretzel, "
        "burger, pizza, omelette, quiche, peach, americano, mocha, chai, sausage, dumpling, samosa, "
        "eclair, meringue, macaron, crumpet, crepe, lasagne, panini, ciabatta, risotto, kebab, gyro, "
        "enchilada, quesadilla, empanada, cola, cider, kombucha, matcha, cortado, frappe, sorbet, "
        "sundae, gelato, popsicle, truffle, lollipop, brioche, oatcake, cracker, fritter, mango, "
        "avocado, melon, olive, grape, radish, walnut, pepper, mushroom, date, fig, biscuit, pickle, "
        "bun, pastry, candy, wonton, trifle, turnover, muffin, tea, pie, roll, soup, juice, cutlet, "
        "toast, coffee, pudding, crumble, danish, croquette, patty, chip, salmon, potpie, flapjack, "
        "nectar, tonic, prawn, kipper, souffle, tortilla, chowder, porridge, parfait, fajita, strudel, "
        "wing, biryani, noodle, cone, bottle, basket, candle, blanket, kettle, saucer, spoon, napkin, "
        "apron, towel, hammer, shovel, bucket, broom, mop, sponge, soap, shampoo, pencil, notebook, "
        "envelope, stamp, ruler, marker, eraser, folder, stapler, calendar, poster, magazine, balloon, "
        "ribbon, puppet, puzzle, kite, racket, helmet, scarf, sweater, jacket, sock, slipper, sandal, "
        "belt, wallet, umbrella, backpack, suitcase, purse, necklace, bracelet, mirror, pillow, "
        "curtain, carpet, lamp, battery, charger, cable, radio, camera, magnet, screw, nail, hinge, "
        "hook, rope, chain, padlock, wrench, drill, saw, brush, roller, bulb, plug, socket, fuse, "
        "torch, tulip, daisy, cactus, fern, vase, planter, trowel, rake, hose, leash, collar, kennel, "
        "aquarium, turnip, cabbage, lettuce, carrot, onion, leek, pumpkin, cucumber, celery, apple, "
        "banana, lemon, cherry, apricot, plum, pear, coconut, pineapple, papaya, guava, lychee, almond, "
        "hazelnut, cashew, pistachio, doily, ladle, grater, skillet, casserole, teacup, mug, tray, "
        "thermos, flask, jug, goblet"
    ),
    names=_words(
        "Anna, Ben, Carla, David, Emma, Farid, Grace, Hugo, Ivy, Jonas, Karim, Laura, Mei, Nina, Oscar, "
        "Paula, Quentin, Rosa, Sam, Tara, Ursula, Victor, Wendy, Xavier, Yusuf, Zoe, Aaron, Bianca, "
        "Carlos, Diana, Ethan, Fatima, George, Hannah, Ibrahim, Julia, Kevin, Lena, Mateo, Noor, Olga, "
        "Peter, Rahul, Sofia, Thomas, Uma, Vera, Walter, Yara, Zach, Alice, Bruno, Claire, Derek, Esther, "
        "Felix, Gita, Henry, Ines, Jack, Keira, Leo, Marta, Nadia, Owen, Priya, Ravi, Sara, Tom, Viktoria"
    ),
    counts=(
        ("a", 1),
        ("a", 1),
        ("one", 1),
        ("just one", 1),
        ("a pair of", 2),
        ("a trio of", 3),
        ("half a dozen", 6),
        ("two dozen", 24),
    ),
    numbers=(
        ("one", 1),
        ("two", 2),
        ("three", 3),
        ("five", 5),
        ("six", 6),
        ("nine", 9),
        ("eleven", 11),
        ("twelve", 12),
        ("thirteen", 13),
        ("fifteen", 15),
        ("sixteen", 16),
        ("eighteen", 18),
        ("2", 2),
        ("3", 3),
        ("5", 5),
        ("6", 6),
        ("9", 9),
        ("11", 11),
        ("12", 12),
        ("13", 13),
        ("15", 15),
        ("16", 16),
        ("18", 18),
        ("20", 20),
        ("25", 25),
        ("30", 30),
    ),
)

TEST = Lexicon(
    patterns=(
        "Might we grab {thing} before the train leaves?",
        "Do you still sell {plural}? If so, bring {number}.",
        "Kindly reserve {thing}; {name} will collect.",
        "I'm dreaming of {thing} after that long walk.",
        "Don't forget {thing} this time!",
        "Someone called {name} should receive {thing}.",
        "Let's go for {thing}, shall we?",
        "Ring up {thing}. Customer: {name}.",
        "Everybody at work loves your {plural}. Save us {number} in {size}, would you?",
        "Is it possible to buy {thing}?",
        "My usual {plural} again, {number} this time, {size} size. Signed, {name}.",
        "At those prices, definitely {thing}.",
        "{name} speaking! Start wrapping {thing}, will you?",
        "Which {plural} are cheapest? Whatever, {number} should do.",
        "{thing} would make my day.",
        "If {name} shows up, hand over {thing}.",
        "Colleague {name} begs you to set aside {thing}.",
        "Regarding {plural}, deliver {number}; choose {size} ones.",
        "Serve our guest {name} {thing}.",
        "Anything nice? Never mind, bring {thing}.",
        "Any chance of {thing}?",
        "Hurry up, {name} expects {thing}!",
        "Charge {thing} to my card, okay?",
        "Tonight's list says {thing}.",
        "Label it {name}: {thing}.",
        "Once the shop opens, hold {thing}; {name} pays.",
        "Room service? Deliver {thing}, says {name}.",
        "Nobody makes {plural} like yours. Wrap {number}.",
        "Yes, {plural}, exactly {number}, preferably {size}.",
        "Add {thing} to our bill.",
        "{thing}: that was always {name}'s choice.",
        "Could somebody find {thing}, since {name} can't come?",
    ),
    openers=("Greetings!", "Evening, folks.", "Sorry to bother you.", "Lovely weather, isn't it?"),
    closers=("Cheers!", "Much appreciated.", "No rush.", "See you soon."),
    items=_words(
        "waffle, croissant, cappuccino, lemonade, burrito, smoothie, baguette, cupcake, scone, taco, "
        "steak, donut, nugget, wafer, chestnut, stew, tart, soda, salad, wrap, lantern, mitten, teapot, "
        "ladder, zipper, cushion"
    ),
    names=_words(
        "Amira, Boris, Chloe, Dmitri, Elena, Fiona, Gustav, Helga, Igor, Jasmine, Kenji, Lucas, Miguel, "
        "Natalie, Oliver, Petra, Robert, Simon, Tanya, William"
    ),
    counts=(("a", 1), ("a", 1), ("a single", 1), ("a couple of", 2), ("a dozen", 12)),
    numbers=(
        ("four", 4),
        ("seven", 7),
        ("eight", 8),
        ("ten", 10),
        ("fourteen", 14),
        ("4", 4),
        ("7", 7),
        ("8", 8),
        ("10", 10),
        ("14", 14),
    ),
)

LEXICONS: dict[Split, Lexicon] = {"train": TRAIN, "test": TEST}


def plural(item: str) -> str:
    """The plural of an item; only the last word changes."""
    if item.endswith(("s", "x", "ch", "sh")):
        return item + "es"
    if item.endswith("y") and item[-2] not in "aeiou":
        return item[:-1] + "ies"
    return item + "s"


def generate(split: Split, count: int, seed: int) -> list[dict[str, Any]]:
    """Write `count` different conversations of one split.

    Patterns, items and names take turns, each in a shuffled order, so that each is used equally often;
    quantities and sizes are drawn. No two rows of a call have the same question.

    Args:
        split: "train" or "test"; the two share no pattern and no content word.
        count: rows to write.
        seed: the same seed gives the same rows; the two splits draw from different streams.
    Returns:
        rows in the OpenAI-messages form: a system turn (`SCHEMA`), the customer's sentence, the order as
        JSON.
    Raises:
        ValueError: unknown split, negative count.
    """
    if split not in LEXICONS:
        raise ValueError(f"unknown split {split!r}; there are: train, test")
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    lexicon = LEXICONS[split]
    draw = random.Random(f"orders/{split}/{seed}")
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    patterns, items, names = (_turns(words, draw) for words in (lexicon.patterns, lexicon.items, lexicon.names))
    while len(rows) < count:
        sentence, order = _fill(next(patterns), next(items), names, lexicon, draw)
        if sentence in seen:
            continue
        seen.add(sentence)
        rows.append(
            {
                "messages": [
                    {"role": "system", "content": SCHEMA},
                    {"role": "user", "content": sentence},
                    {"role": "assistant", "content": json.dumps(order)},
                ]
            }
        )
    return rows


def _turns(choices: Sequence[str], draw: random.Random) -> Iterator[str]:
    """All choices in a shuffled order, then all in another, for ever."""
    while True:
        yield from draw.sample(choices, len(choices))


def _fill(
    pattern: str, item: str, names: Iterator[str], lexicon: Lexicon, draw: random.Random
) -> tuple[str, dict[str, Any]]:
    """Fill a pattern's slots; return the sentence and the order that it means."""
    pattern = re.sub(r"\[(.*?)\]", lambda part: part[1] if draw.random() < 0.5 else "", pattern)
    standing_alone = "{number}" in pattern
    choices = lexicon.numbers if standing_alone or draw.random() < 0.6 else lexicon.counts
    phrase, quantity = draw.choice(choices)
    size = None
    if "{size}" in pattern or ("{thing}" in pattern and draw.random() < 0.5):
        size = draw.choice(SIZES)
    name = next(names) if "{name}" in pattern else None
    noun = item if quantity == 1 else plural(item)
    written = plural(item) if "{plural}" in pattern else noun
    sized = noun if size is None or "{size}" in pattern else f"{size} {noun}"
    sentence = pattern.format(
        thing=_article(phrase, sized),
        count=_article(phrase, noun).removesuffix(" " + noun),
        number=phrase,
        size=size,
        item=noun,
        plural=plural(item),
        name=name,
    )
    sentence = sentence[0].upper() + sentence[1:]
    sentence = re.sub(r"([.!?] )([a-z])", lambda match: match[1] + match[2].upper(), sentence)
    if draw.random() < 0.4:
        sentence = f"{draw.choice(lexicon.openers)} {sentence}"
    if draw.random() < 0.25:
        sentence = f"{sentence} {draw.choice(lexicon.closers)}"
    return sentence, {"quantity": quantity, "size": size, "item": written, "name": name}


def _article(phrase: str, noun: str) -> str:
    """Put a quantity before a noun, with "an" where "a" stands before a vowel."""
    return f"an {noun}" if phrase == "a" and noun[0] in "aeiou" else f"{phrase} {noun}"


_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*?)\n?\s*```\Z", re.DOTALL)


def score(prediction: str, reference: str) -> bool:
    """Whether an answer says exactly what the reference says.

    Both are parsed as JSON and compared as values: the order of keys does not matter, types do ("2" is not
    2, true is not 1, 2.0 is not 2). Whitespace around the answer and one ```json fence are forgiven; anything
    else around it is wrong.

    Args:
        prediction: the model's answer, without special tokens.
        reference: the assistant turn of the row.
    Raises:
        ValueError: the reference itself is not JSON.
    """
    expected = json.loads(reference)
    text = prediction.strip()
    fenced = _FENCE.match(text)
    try:
        answer = json.loads(fenced[1] if fenced else text, object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError):
        return False
    return _same(answer, expected)


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object that names a key twice contradicts itself, so it is no answer."""
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _same(left: Any, right: Any) -> bool:
    """Equal in value and in type, all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(_same(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


def write_files(folder: Path | str, seed: int, train_count: int, test_count: int) -> tuple[Path, Path]:
    """Write train.jsonl and test.jsonl; the same arguments give the same bytes on every machine.

    Args:
        folder: made if it does not exist.
        seed, train_count, test_count: as in `generate`.
    Returns:
        the paths of train.jsonl and test.jsonl.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    counts: Sequence[tuple[Split, int]] = (("train", train_count), ("test", test_count))
    for split, count in counts:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in generate(split, count, seed)]
        (folder / f"{split}.jsonl").write_bytes("".join(lines).encode("utf-8"))
    return folder / "train.jsonl", folder / "test.jsonl"
