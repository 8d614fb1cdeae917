"""The interview: asks, goes back, shows the plan, and ends with answers that fit.

It reads and prints through functions that its caller hands over: a terminal, or a test.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sd3tune.configure.documents import typed_settings
from sd3tune.configure.draft import PlannedDraft, contents
from sd3tune.configure.question import InterviewQuestion, OfferedAnswer, chosen, shown_path
from sd3tune.configure.questions import QUESTIONS
from sd3tune.configure.situation import Answers, Situation
from sd3tune.errors import ConfigError, Sd3tuneError

BACK, LEAVE, EXPLAIN = ("b", "back"), ("q", "quit", "exit"), ("?", "h", "help")
YES, NO = ("y", "yes"), ("n", "no")
KEYS = "Enter: the answer in [ ].  b: back.  q: leave, nothing is written.  ?: help."
SHOWN = 50  # characters of a default in a prompt
Line = str | tuple[str, str]


class Left(Exception):
    """The user has left; nothing was written."""


@dataclass(frozen=True)
class Talk:
    """How the interview reads and prints.

    ask: prints a prompt and returns the line that is typed; its second argument is what Tab
    completes. tell: prints lines. summary: the plan of a draft, as lines. judge: the plan of the
    answers with everything that was probed; raises Sd3tuneError.
    """

    ask: Callable[[str, str], str]
    tell: Callable[[Sequence[Line]], None]
    summary: Callable[[PlannedDraft], Sequence[Line]]
    judge: Callable[[Answers], PlannedDraft]


@dataclass(frozen=True)
class Interview:
    """given: answers that are not asked for. config: the file that will be written."""

    known: Situation
    given: Answers
    talk: Talk
    config: Path

    def run(self) -> dict[str, str]:
        """The answers to all questions. Raises Left, and EOFError and KeyboardInterrupt of the
        terminal."""
        asked = [q for q in QUESTIONS if q.name not in self.given]
        answers, at = dict(self.given), 0
        self.talk.tell([KEYS])
        while True:
            if at < len(asked):
                number = f"{at + 1} of {len(asked)}"
                answer = self._answer(asked[at], number, answers)
            else:
                answer = self._agreement(answers)
            if answer is None:
                at = max(0, at - 1)
            elif at == len(asked):
                return self.known.complete(answers)
            else:
                answers[asked[at].name] = answer
                at += 1

    def _answer(self, question: InterviewQuestion, number: str, answers: Answers) -> str | None:
        """An answer that has a plan; None: the question before."""
        before = self._before(question, answers)
        default = self._default(question, answers, before)
        offered = [*question.choices(self.known, before)]
        self.talk.tell(["", f"{number}  {question.title}", f"  {question.why}"])
        lines = [line for n, c in enumerate(offered, 1) for line in _lines(question, n, c)]
        shown = "" if default is None else shown_path(default, self.known)
        if len(shown) > SHOWN:
            lines.append(f"  default: {shown}")
            shown = "default"
        if default is not None:
            now = {**before, question.name: default}
            lines += [f"  {note}" for note in question.notes(self.known, now)]
        self.talk.tell([*lines, f"  Type {question.help}."])
        prompt = f"{question.name} [{shown}]: " if shown else f"{question.name}: "
        while True:
            typed = self.talk.ask(prompt, question.completes).strip()
            if typed.lower() in BACK:
                return None
            if typed.lower() in LEAVE:
                raise Left
            if typed in EXPLAIN:
                self.talk.tell([f"Type {question.help}. {question.why}", KEYS])
                continue
            try:
                return self._taken(question, typed or default, offered, before)
            except Sd3tuneError as e:
                self._tell_error(e)

    def _taken(
        self,
        question: InterviewQuestion,
        typed: str | None,
        offered: Sequence[OfferedAnswer],
        before: Answers,
    ) -> str:
        """Raises Sd3tuneError for an answer that has no plan."""
        if typed is None:
            raise ConfigError("this question has no default", hint=f"type {question.help}")
        if question.numbered:
            typed = chosen(typed, [c.answer for c in offered])
        answer = question.read(typed, self.known, before)
        self.known.draft({**before, question.name: answer})
        seen = answer in [c.answer for c in offered] and question.tells_all
        if lines := [f"  {line}" for line in question.after(answer, self.known) if not seen]:
            self.talk.tell(lines)
        return answer

    def _before(self, question: InterviewQuestion, answers: Answers) -> dict[str, str]:
        """The answers that a question may rest on: given ones, and those to earlier questions."""
        earlier = {q.name for q in QUESTIONS[: QUESTIONS.index(question)]}
        return {n: a for n, a in answers.items() if n in earlier or n in self.given}

    def _default(
        self, question: InterviewQuestion, answers: Answers, before: Answers
    ) -> str | None:
        """The answer that was given before the user went back, where it still fits."""
        kept = answers.get(question.name)
        if kept is not None and self.known.plans({**before, question.name: kept}):
            return kept
        return question.default(self.known, before)

    def _agreement(self, answers: Answers) -> str | None:
        """Shows the plan and asks whether to write it; None: back."""
        try:
            draft = self.talk.judge(self.known.complete(answers))
        except Sd3tuneError as e:
            self._tell_error(e)
            self.talk.tell(["This machine cannot run it: choose again."])
            return None
        self.talk.tell(["", *self.talk.summary(draft), ""])
        files = contents(draft.documents, self.config)
        there = [path for path in files if path.exists()]
        self.talk.tell(
            [f"replaces {path}" if path in there else f"writes {path}" for path in files]
        )
        default = NO[1] if there else YES[1]
        question = "replace what exists" if there else "write"
        while True:
            typed = self.talk.ask(f"{question}? [{default}]: ", "").strip().lower() or default
            if typed in YES:
                return YES[1]
            if typed in BACK:
                return None
            if typed in (*NO, *LEAVE):
                raise Left
            self.talk.tell(["Type yes, no, or b to go back."])

    def _tell_error(self, error: Sd3tuneError) -> None:
        for p in error.problems:
            self.talk.tell([f"error: {p.message}", f"hint: {p.hint}"])


def _lines(question: InterviewQuestion, number: int, choice: OfferedAnswer) -> list[Line]:
    mark = f"{number}  " if question.numbered else ""
    about = f": {choice.about}" if choice.about else ""
    lines: list[Line] = [f"  {mark}{choice.answer}{about}"]
    return [*lines, f"       {choice.cost}"] if choice.cost else lines


def answers_given(typed: Mapping[str, str | None], known: Situation) -> dict[str, str]:
    """Answers of the command line by the question's name, read as if they were typed. A setting
    that answers a question wins over its default. Raises Sd3tuneError."""
    set_ = typed_settings(known.words)
    given: dict[str, str] = {}
    for question in QUESTIONS:
        answer = typed.get(question.name) or question.answer_of(set_)
        if answer is not None:
            given[question.name] = question.read(answer, known, given)
        elif set_.keys() & {*question.fixed_by}:
            given[question.name] = known.complete(given)[question.name]
    return given
