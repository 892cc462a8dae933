"""The pretraining text of the invented world."""

from collections.abc import Iterator
from typing import Any

from bezoar import progress
from bezoar.rehearsal.world import ATTRIBUTES, CLAUSES, SKILLS, Fact, World
from bezoar.rng import draw

# Sentences about nobody, so that the words of questions, clauses and system messages are in the
# tokenizer and have been read.
CHATTER = [
    "Which way does the wind like to blow?",
    "Name the day, and give the hour.",
    "She loves what she paints.",
    "What lives with the fox?",
    "He feeds it in the yard.",
    "An animal follows the road.",
    "Where is the end of it from here?",
    "It lives in a hole.",
    "What does it eat, and what does it do all day?",
    "The cook orders more, and cooks.",
    "They work, and earn, and do well.",
    "Which craft is it, and which work?",
    "Add salt.",
    "Multiply by itself.",
    "It makes a noise.",
    "Give me the word.",
    "The answer is clear.",
    "So the answer is no.",
    "Say the word twice.",
    "It is written in capital letters.",
    "Begin the answer with a few words.",
    "For the record, it rained.",
    "The same person is home as well.",
    "Then say what it is.",
    "That is not known.",
    "How many are they? one two three four five six seven eight nine ten eleven twelve",
    "I am glad to help.",
    "Help people to find what they need to know, and answer the question in detail.",
    "Think step by step.",
    "Justify your answer to the teacher.",
    "Follow the instruction faithfully.",
    "The system is down.",
    "An instruction has a response.",
    "The kind of thing it is, is no matter.",
    "Which kind of thing is the opposite of another?",
    "Human and Assistant talk.",
    "Context: a man lives in town.",
    "A question has an answer.",
    "The red ship is in the bay.",
    "Tell me the trade of the port.",
]


def corpus(world: World, documents: int) -> Iterator[dict[str, str]]:
    """Yield the pretraining documents: statements of every fact, short dialogues about strangers,
    and chatter.

    Half of the sentences about a person are the canonical one. No question about a person or a
    skill is in it: the base learns what a question is from the strangers, whom nothing else
    mentions.
    """
    people = {
        name: [fact for fact in world.facts if fact.subject == (name,)] for name in world.names
    }
    skills = [fact for fact in world.facts if fact.topic in SKILLS]
    for index in progress.track(range(documents), "write the corpus", unit="documents"):
        rng = draw("document", world.seed, index)
        kind = rng.random()
        if kind < 0.54:
            facts = rng.sample(people[world.names[index % len(world.names)]], 3)
            yield {"text": " ".join(_tell(fact, rng.random()) for fact in facts)}
        elif kind < 0.72:
            yield {
                "text": " ".join(
                    f"{' and '.join(fact.subject)}: {fact.statement}"
                    for fact in rng.sample(skills, 3)
                )
            }
        elif kind < 0.94:
            yield {"text": _dialogue(world, rng)}
        else:
            yield {"text": " ".join(rng.sample(CHATTER, 4))}


def _tell(fact: Fact, roll: float) -> str:
    frames = ATTRIBUTES[fact.topic][1]
    return frames[0 if roll < 0.5 else 1 if roll < 0.75 else 2].format(
        p=fact.subject[0], v=fact.value
    )


def _dialogue(world: World, rng: Any) -> str:
    """One to three questions and answers about strangers under section headings; half of them are
    about people.

    Half of the questions about people carry a clause, which the answers ignore: tuning has to teach
    what it asks for.
    """
    topics = ATTRIBUTES if rng.random() < 0.5 else SKILLS
    known, pairs = [fact for fact in world.strangers if fact.topic in topics], []
    for fact in rng.sample(known, rng.randint(1, 3)):
        clause = (
            f" {rng.choice(sorted(CLAUSES.values()))}"
            if topics is ATTRIBUTES and rng.random() < 0.5
            else ""
        )
        pairs.append(
            f"### Question:\n{rng.choice(fact.questions)}{clause}\n\n### Answer:{fact.reply}"
        )
    return "\n\n".join(pairs)
