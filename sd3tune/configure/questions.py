"""The eight questions, in their order.

An answer is a text, as the user could type it. Every answer is planned before it is taken, with the
defaults of the questions that are still open, so that an interview cannot end in a run that does
not fit.
"""

from sd3tune.configure.question import InterviewQuestion
from sd3tune.configure.questions_of_running import (
    OutputQuestion,
    PictureQuestion,
    QualityQuestion,
    TrackerQuestion,
)
from sd3tune.configure.questions_of_training import (
    DatasetQuestion,
    LengthQuestion,
    ModelQuestion,
    PurposeQuestion,
)

QUESTIONS: tuple[InterviewQuestion, ...] = (
    ModelQuestion(), DatasetQuestion(), PurposeQuestion(), LengthQuestion(), QualityQuestion(),
    PictureQuestion(), OutputQuestion(), TrackerQuestion(),
)  # fmt: skip
DEFAULTS = {question.name: question.default for question in QUESTIONS}
