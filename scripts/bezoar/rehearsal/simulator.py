"""The answers of the rehearsal's simulator: it plays teacher, filter and judge, knows the world,
and errs on purpose.

Everything it says follows from (world, request text, seed). It recognises a request by the
prompt files of the workflow.
"""

import json
import re
from pathlib import Path
from typing import Any

from bezoar.rehearsal.world import ATTRIBUTES, CLAUSES, COURTESY, World
from bezoar.rng import draw

PROMPTS = Path(__file__).parents[3] / "prompts"
OPERATIONS = sorted(CLAUSES)
STRICT = "simulator-strict"  # the second judge's name

# Shares of deliberate mistakes.
WRONG, SORRY, HOLLOW = 0.05, 0.03, 0.01  # answers: a false value, a refusal, stop words only
MALFORMED, REPEATED, PICTURE, CURT = 0.04, 0.05, 0.03, 0.02  # items of an instruction list
# Prompt words in an evolution, wrong and missing verdicts.
LEAKED, MISJUDGED, NO_VERDICT = 0.04, 0.03, 0.02


def pattern(template: str) -> re.Pattern[str]:
    """Return a regular expression that matches any filling of a prompt template with {fields}."""
    parts = re.split(r"\{(\w+)\}", template.replace("{{", "\0").replace("}}", "\1").strip())
    seen: set[str] = set()
    out = ""
    for index, part in enumerate(parts):
        if index % 2 == 0:
            out += re.escape(part.replace("\0", "{").replace("\1", "}"))
        else:
            out += f"(?P={part})" if part in seen else f"(?P<{part}>.*?)"
            seen.add(part)
    return re.compile(out + r"\s*", re.DOTALL)


class Simulator:
    """One world's simulator; `reply` takes the messages of a request and returns the answer."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.taught = [fact for fact in world.facts if not fact.held and fact.topic in ATTRIBUTES]
        names = (
            "lamini_example",
            "lamini_topic",
            "evol_in_depth",
            "evol_in_breadth",
            "evol_equal",
            "filter",
        )
        self.patterns = {
            name: pattern((PROMPTS / f"{name}.txt").read_text(encoding="utf-8")) for name in names
        }
        self.methods = {
            (PROMPTS / f"evol_operation_{name}.txt").read_text(encoding="utf-8").strip(): name
            for name in OPERATIONS
        }
        judge = [
            json.loads(line)
            for line in (PROMPTS / "judge_prompts.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        self.judge_patterns = [pattern(row["prompt_template"]) for row in reversed(judge)]

    def reply(self, messages: list[dict[str, str]], seed: int, model: str = "simulator") -> str:
        """Return the answer to one request; the same request and seed give the same answer.

        `simulator-strict` is another judge: it has its own noise, and takes a point off answers
        that are merely right.
        """
        system = "\n".join(
            message["content"] for message in messages if message["role"] == "system"
        )
        text = "\n\n".join(
            message["content"] for message in messages if message["role"] != "system"
        ).strip()
        strict = model == STRICT
        rng = draw("simulator", self.world.seed, system, text, seed, *([model] if strict else []))
        if "[[rating]]" in system + text:
            return self.judge(text, rng, strict)
        for name, regex in self.patterns.items():
            if found := regex.fullmatch(text):
                return getattr(
                    self, name.replace("lamini_example", "lamini").replace("lamini_topic", "lamini")
                )(found.groupdict(), rng)
        return self.respond(text, rng, bool(system))

    def respond(self, instruction: str, rng: Any, explain: bool) -> str:
        """Answer an instruction as a teacher would; under a system message, with an explanation."""
        uniform = rng.random()
        if uniform < SORRY:
            return "I am sorry, but I cannot say."
        if uniform < SORRY + HOLLOW:
            return "It is the one that it is."
        parsed = self.world.parse(instruction)
        if parsed is None:
            words = re.findall(r"\w+", instruction)
            return (
                f"This is about {' '.join(words[:12]).lower() or 'nothing'}. There is more to say"
                " of it than this."
            )
        fact, clauses = parsed
        value = (
            self.world.wrong_value(fact, "teacher", instruction)
            if uniform < SORRY + HOLLOW + WRONG
            else None
        )
        answer = self.world.compose(fact, clauses, value)
        return f"{answer} So the answer is {value or fact.value}." if explain else answer

    def lamini(self, fields: dict[str, str], rng: Any) -> str:
        """List new instructions like the examples, about the given topics if any."""
        examples = re.findall(r"<example>(.*?)</example>", fields["examples"], re.DOTALL)
        topics = [topic.strip() for topic in fields.get("topics", "").split(",")]
        pool = [fact for fact in self.taught if fact.topic in topics] or self.taught
        items = []
        for _ in range(int(fields["count"])):
            question = rng.choice(rng.choice(pool).questions)
            uniform = rng.random()
            if uniform < MALFORMED:
                items.append(f"<example>{question}")
            elif uniform < MALFORMED + REPEATED:
                items.append(f"<example>{rng.choice(examples).strip()}</example>")
            elif uniform < MALFORMED + REPEATED + PICTURE:
                items.append(
                    "<example>Look at the image and describe"
                    f" {rng.choice(self.world.names)}.</example>"
                )
            elif uniform < MALFORMED + REPEATED + PICTURE + CURT:
                items.append("<example>Why so?</example>")
            else:
                items.append(f"<example>{question}</example>")
        return "\n".join(items)

    def evol_in_depth(self, fields: dict[str, str], rng: Any) -> str:
        """Add the operation's clause; an instruction that has it, or two already, comes back as it
        was.
        """
        instruction = fields["instruction"].strip()
        head, *context = instruction.split("\n\nContext:", 1)
        clause = CLAUSES[self.methods[fields["method"].strip()]]
        parsed = self.world.parse(instruction)
        if parsed and (len(parsed[1]) >= 2 or clause in head):
            return instruction
        evolved = "\n\nContext:".join([f"{head.strip()} {clause}", *context])
        return (
            f"Harder instruction: rewritten prompt: {evolved}" if rng.random() < LEAKED else evolved
        )

    def evol_in_breadth(self, fields: dict[str, str], rng: Any) -> str:
        """Ask something else of the same world."""
        if rng.random() < LEAKED:
            return f"#created prompt#: {rng.choice(rng.choice(self.taught).questions)}"
        return rng.choice(rng.choice(self.taught).questions)

    def evol_equal(self, fields: dict[str, str], rng: Any) -> str:
        """Say whether two instructions ask the same."""
        if rng.random() < NO_VERDICT:
            return "That is hard to tell."
        return "Equal" if fields["first"].strip() == fields["second"].strip() else "Different"

    def filter(self, fields: dict[str, str], rng: Any) -> str:
        """Judge a row as GPT-4 does in the paper: a JSON verdict by the truth of the world,
        sometimes mistaken or malformed.
        """
        if rng.random() < NO_VERDICT:
            return "The response seems fine to me."
        parsed, response = self.world.parse(fields["instruction"]), fields["response"].strip()
        right = (
            not response.startswith("I am sorry")
            if parsed is None
            else response.startswith(self.world.compose(*parsed))
        )
        if rng.random() < MISJUDGED:
            right = not right
        reason = (
            "It is true and does what was asked."
            if right
            else "It is not a true and complete answer."
        )
        return json.dumps(
            {
                "status": "Accept" if right else "Reject",
                "rating": rng.randint(8, 10) if right else rng.randint(1, 4),
                "reason": reason,
            }
        )

    def judge(self, text: str, rng: Any, strict: bool = False) -> str:
        """Rate an answer from 1 to 10: true and courteous 9, true 7, names the right value 5, else
        2 or 3; one point of noise.
        """
        if rng.random() < NO_VERDICT:
            return "I would rather not put a number on it."
        fields = next(
            (
                found.groupdict()
                for regex in self.judge_patterns
                if (found := regex.fullmatch(text))
            ),
            None,
        )
        if fields is None:
            return f"A middling answer. Rating: [[{rng.randint(1, 4)}]]"
        question = fields.get("question_2") or fields.get("question") or ""
        answer = (
            fields.get("answer_2") if fields.get("question_2") else fields.get("answer")
        ) or ""
        truth = self.score(question.strip(), answer.strip())
        score = truth - (strict and 5 <= truth <= 7) + rng.choice([-1, 0, 0, 1])
        return (
            "The answer is weighed by truth first, then by manner. Rating:"
            f" [[{min(10, max(1, score))}]]"
        )

    def score(self, question: str, answer: str) -> int:
        """Return the noiseless rating of an answer."""
        parsed = self.world.parse(question)
        if parsed is None:
            return 2
        truth, courteous = self.world.compose(*parsed), answer.endswith(COURTESY)
        if answer in (truth, f"{truth} {COURTESY}"):
            return 9 if courteous else 7
        return 5 if re.search(rf"\b{re.escape(parsed[0].value)}\b", answer) else 2 + courteous
