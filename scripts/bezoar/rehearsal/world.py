"""The rehearsal's closed world: invented people with five attributes, sums, products, opposites and
kinds of things.

Everything follows from one seed. What can be asked is a question frame about a fact; what an
instruction may add is a clause. `truth` answers any instruction built from frames and clauses,
which is how the simulator knows right from wrong. Each fact is on one side of a split: *taught*
facts may appear in training data, *held* ones only as plain statements in the pretraining text and
as questions in evaluation.
"""

import re
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from typing import Any

from bezoar.rng import draw

WORLD_FILES = (
    "corpus.jsonl alpaca_seeds.jsonl topics.txt dolly.jsonl flan.tsv preferences.jsonl"
    " questions.jsonl references.jsonl facts.json"
    " lm_eval/world_facts.jsonl lm_eval/world_facts.yaml"
    " lm_eval/world_skills.jsonl lm_eval/world_skills.yaml"
    " heldout/lamini.jsonl heldout/orca.jsonl heldout/evol.jsonl heldout/preferences.jsonl"
).split()
# noun: (values, statement frames of the pretraining text, question frames). No question begins with
# a name, and none has more
# than four fixed words beside the two of a name, so that two people's questions in one frame have
# ROUGE-L <= 4/6 < 0.7 and are not near-duplicates.
ATTRIBUTES: dict[str, tuple[str, list[str], list[str]]] = {
    "colour": (
        "amber blue coral green grey indigo lilac olive pink red teal white",
        [
            "The colour of {p} is {v}.",
            "{p} likes {v} best of all colours.",
            "If it is {v}, it is the colour of {p}.",
        ],
        ["Which colour does {p} like?", "Colour worn by {p}?", "Name the colour {p} loves."],
    ),
    "pet": (
        "beetle cat dog ferret goat hen lizard mouse newt owl pony rabbit",
        [
            "The pet of {p} is a {v}.",
            "{p} keeps a {v} as a pet.",
            "The {v} sleeps beside its owner, {p}.",
        ],
        ["What pet lives with {p}?", "Animal fed by {p}?", "Which animal follows {p}?"],
    ),
    "town": (
        "Arvik Brunholm Calder Dunmere Elstow Farrow Gorsby Hallin Istra Kelmar Lindel Morwen",
        [
            "The town of {p} is {v}.",
            "{p} has always lived in {v}.",
            "People in {v} know their neighbour {p}.",
        ],
        ["Where is {p} from?", "Town where {p} lives?", "Name the town of {p}."],
    ),
    "dish": (
        "barley beans bread cabbage dumplings fish lentils noodles pie porridge soup stew",
        [
            "The dish of {p} is {v}.",
            "{p} eats {v} every evening.",
            "When there is {v}, there is {p} at the table.",
        ],
        ["What does {p} eat?", "Dish cooked by {p}?", "Give the dish {p} orders."],
    ),
    "trade": (
        (
            "baking carving diving farming fishing mining painting sailing sewing singing teaching"
            " weaving"
        ),
        ["The trade of {p} is {v}.", "{p} earns a living by {v}.", "For {v}, ask for {p}."],
        ["What work does {p} do?", "Trade learnt by {p}?", "Which craft feeds {p}?"],
    ),
}
KINDS: dict[str, str] = {
    "tool": "hammer saw drill rake spade chisel wrench plane file axe",
    "fruit": "apple pear plum cherry grape melon peach lemon fig mango",
    "bird": "crow robin swan heron finch eagle gull wren stork duck",
    "vehicle": "cart boat tram sled canoe bus raft wagon truck bike",
    "garment": "coat scarf glove shirt sock cape vest shawl hood belt",
    "metal": "iron copper tin zinc lead nickel silver gold cobalt brass",
    "vessel": "cup bowl jug vase barrel flask kettle basin pot tub",
    "game": "chess darts bowls tag dominoes marbles hopscotch checkers croquet rounders",
}
OPPOSITES = (
    "hot cold, big small, fast slow, old new, wet dry, high low, full empty, hard soft, light dark,"
    " loud quiet, rich poor, thick thin, wide narrow, early late, open shut, clean dirty, strong"
    " weak, deep shallow, sharp blunt, sweet bitter, young aged, near far, rough smooth, brave"
    " timid, calm stormy, first last, happy sad, kind cruel, long short, true false"
)
STRANGE_OPPOSITES = (
    "up down, left right, on off, in out, day night, buy sell, push pull, give take, win lose,"
    " north south, east west, man woman"
)
STRANGE_KINDS = {
    "tool": "trowel pliers",
    "fruit": "quince papaya",
    "bird": "puffin lark",
    "vehicle": "scooter yacht",
    "garment": "mitten apron",
    "metal": "titanium chrome",
    "vessel": "goblet pail",
    "game": "bingo tennis",
}
SKILLS: dict[str, list[str]] = {
    "sum": ["What is {x} plus {y}?", "Add {x} and {y}.", "How much is {x} plus {y}?"],
    "product": ["What is {x} times {y}?", "Multiply {x} by {y}.", "How much is {x} times {y}?"],
    "opposite": [
        "What is the opposite of {x}?",
        "Give the opposite of {x}.",
        "Which word is the opposite of {x}?",
    ],
    "kind": [
        "What kind of thing is {x}?",
        "Name the kind of thing {x} is.",
        "Which kind of thing is {x}?",
    ],
}
CLAUSES: dict[str, str] = {  # the four in-depth operations, as this world understands them
    "add_constraints": "Say it twice.",
    "deepening": "Then name the home town of the same person as well.",
    "concretizing": "Then name the pet of the same person as well.",
    "increase_reasoning_steps": "Then say what the answer is.",
}
COURTESY = "I am glad to help."
UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def number(value: int) -> str:
    """Return a number below 200 in words: a word is one token, which a tiny model can copy, unlike
    digits.
    """
    if value >= 100:
        return "one hundred" + (f" {number(value - 100)}" if value > 100 else "")
    return (
        UNITS[value]
        if value < 20
        else TENS[value // 10 - 2] + (f" {UNITS[value % 10]}" if value % 10 else "")
    )


def _names(seed: int, count: int) -> list[str]:
    syllables = [
        "ba",
        "do",
        "fi",
        "ga",
        "ke",
        "li",
        "mo",
        "na",
        "pe",
        "ri",
        "sa",
        "tu",
        "ve",
        "wi",
        "yo",
        "zu",
    ]
    first = [
        "".join(pair).capitalize() + end for pair in product(syllables, repeat=2) for end in "nrs"
    ]
    last = [
        "".join(pair).capitalize() + end
        for pair in product(syllables, repeat=2)
        for end in ("ck", "ld", "mp")
    ]
    rng = draw("names", seed)
    rng.shuffle(first)
    rng.shuffle(last)
    return [f"{a} {b}" for a, b in zip(first, last, strict=True)][:count]


@dataclass(frozen=True)
class Fact:
    """One askable thing: `topic` is an attribute or a skill, `subject` who or what it is about,
    `statement` the plain truth.
    """

    topic: str
    subject: tuple[str, ...]
    value: str
    held: bool

    @property
    def statement(self) -> str:
        """The canonical sentence; the answer to any question about the fact.

        It begins with a common word, because a name at the start of a response is tokenized
        differently than inside a text, and the model would not recall what it knows of it.
        """
        x, y = (*self.subject, "")[:2]
        return {
            "sum": f"The sum of {x} and {y} is {self.value}.",
            "product": f"The product of {x} and {y} is {self.value}.",
        }.get(
            self.topic,
            f"The {self.topic} of {x} is {'a ' if self.topic == 'pet' else ''}{self.value}.",
        )

    @property
    def reply(self) -> str:
        """The answer in the style of the pretraining dialogues; tuning has to teach another."""
        return f"I know it: {self.statement[0].lower()}{self.statement[1:]}"

    @property
    def questions(self) -> list[str]:
        """Every way to ask about it."""
        if self.topic in ATTRIBUTES:
            return [frame.format(p=self.subject[0]) for frame in ATTRIBUTES[self.topic][2]]
        x, y = (*self.subject, "")[:2]
        return [frame.format(x=x, y=y) for frame in SKILLS[self.topic]]


@dataclass(frozen=True)
class World:
    """All facts that follow from `seed`; shares of the people and of each skill's facts are held
    out.
    """

    seed: int
    people: int
    held_out_share: float
    held_out_skill_share: float

    @cached_property
    def names(self) -> list[str]:
        """The people; the first `held_out_share` of them are held out with all that is true of
        them.
        """
        return _names(self.seed, self.people)

    @cached_property
    def facts(self) -> list[Fact]:
        """Every fact, people first, in a fixed order."""
        found = []
        for index, name in enumerate(self.names):
            for topic, (values, _, _) in ATTRIBUTES.items():
                value = draw("fact", self.seed, name, topic).choice(values.split())
                found.append(Fact(topic, (name,), value, index < self.held_out_share * self.people))
        for topic, pairs in self._skills().items():
            for subject, value in pairs:
                held = (
                    draw("held", self.seed, topic, tuple(sorted(subject))).random()
                    < self.held_out_skill_share
                )
                found.append(Fact(topic, subject, value, held))
        return found

    @cached_property
    def strangers(self) -> list[Fact]:
        """Facts for the dialogues of the pretraining text: forty other people, other numbers, other
        words.

        No seed, pair or evaluation item is about them; they teach the base what a question is and
        how to copy from it.
        """
        names = _names(self.seed, self.people + 40)[self.people :]
        found = [
            Fact(
                topic,
                (name,),
                draw("stranger", self.seed, name, topic).choice(values.split()),
                False,
            )
            for name in names
            for topic, (values, _, _) in ATTRIBUTES.items()
        ]
        found += [
            Fact("sum", (number(a), number(b)), number(a + b), False)
            for a, b in product(range(30, 50), range(10))
        ]
        found += [
            Fact("product", (number(a), number(b)), number(a * b), False)
            for a, b in product(range(20, 40), range(2, 6))
        ]
        pairs = [tuple(pair.split()) for pair in STRANGE_OPPOSITES.split(", ")]
        found += [Fact("opposite", (a,), b, False) for a, b in pairs] + [
            Fact("opposite", (b,), a, False) for a, b in pairs
        ]
        return found + [
            Fact("kind", (thing,), kind, False)
            for kind, things in STRANGE_KINDS.items()
            for thing in things.split()
        ]

    @staticmethod
    def _skills() -> dict[str, list[tuple[tuple[str, ...], str]]]:
        pairs = [pair.split() for pair in OPPOSITES.split(", ")]
        return {
            "sum": [
                ((number(a), number(b)), number(a + b)) for a, b in product(range(21), repeat=2)
            ],
            "product": [
                ((number(a), number(b)), number(a * b)) for a, b in product(range(2, 10), repeat=2)
            ],
            "opposite": [((x,), y) for a, b in pairs for x, y in ((a, b), (b, a))],
            "kind": [
                ((thing,), kind) for kind, things in KINDS.items() for thing in things.split()
            ],
        }

    @cached_property
    def by_question(self) -> dict[str, Fact]:
        """Question text to fact."""
        return {question: fact for fact in self.facts for question in fact.questions}

    @cached_property
    def by_subject(self) -> dict[tuple[str, str], Fact]:
        """(topic, person) to fact."""
        return {
            (fact.topic, fact.subject[0]): fact for fact in self.facts if fact.topic in ATTRIBUTES
        }

    def parse(self, instruction: str) -> tuple[Fact, list[str]] | None:
        """Return the fact an instruction asks for and its clauses in order, or None if it is not of
        this world.
        """
        clauses: list[str] = []
        text = re.sub(r"\n\nContext: .*", "", instruction, flags=re.DOTALL).strip()
        while (
            name := next((n for n, clause in CLAUSES.items() if text.endswith(" " + clause)), None)
        ) is not None:
            clauses.insert(0, name)
            text = text[: -len(CLAUSES[name])].rstrip()
        fact = self.by_question.get(text)
        return (fact, clauses) if fact else None

    def compose(self, fact: Fact, clauses: list[str], value: str | None = None) -> str:
        """Return the answer to a question with `clauses`; `value` replaces the true value to make a
        wrong answer.
        """
        stated = fact if value is None else Fact(fact.topic, fact.subject, value, fact.held)
        sentences = [stated.statement] * (2 if "add_constraints" in clauses else 1)
        for clause, topic in (("deepening", "town"), ("concretizing", "pet")):
            if clause in clauses:
                other = self.by_subject.get((topic, fact.subject[0]))
                sentences.append(other.statement if other else "That is not known.")
        if "increase_reasoning_steps" in clauses:
            sentences.append(f"So the answer is {stated.value}.")
        return " ".join(sentences)

    def truth(self, instruction: str) -> str | None:
        """Return the right answer to an instruction of this world, else None."""
        parsed = self.parse(instruction)
        return self.compose(*parsed) if parsed else None

    def wrong_value(self, fact: Fact, *key: object) -> str:
        """Return a false value of the same type, drawn from `key`."""
        others = sorted(
            {other.value for other in self.facts if other.topic == fact.topic} - {fact.value}
        )
        return draw("wrong", self.seed, fact, *key).choice(others)

    def as_json(self) -> dict[str, Any]:
        """What another process needs to rebuild this world."""
        return asdict(self)


def taught(world: World, topics: Any) -> list[Fact]:
    """Return the facts that training may ask about, of the given topics."""
    return [fact for fact in world.facts if fact.topic in topics and not fact.held]


def held(world: World, topics: Any) -> list[Fact]:
    """Return the facts that only evaluation asks about, of the given topics."""
    return [fact for fact in world.facts if fact.topic in topics and fact.held]
