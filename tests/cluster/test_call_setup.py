"""The controller's answers to tasks that have ended, or have no files: errors name the file."""

from __future__ import annotations

from itertools import count

import pytest

from encamp.cluster.call_setup import Setups
from encamp.cluster.records import TaskRecord
from encamp.cluster.sent_functions import Functions
from encamp.cluster.spawn_options import SpawnOptions
from encamp.errors import UnusableInput
from encamp.loop.deferred_signals import DeferredSignals
from encamp.storage.files_by_request import IsOver, SpawnersFiles
from encamp.storage.inputs.send_inputs import digest_of_piece
from encamp.storage.outputs.send_outputs import Piece


def _setups() -> Setups:
    return Setups(count(1), everybody_here=True)


def _record() -> TaskRecord:
    functions = Functions(signals_deferred=DeferredSignals(lambda: None))
    function, arguments = functions.find(abs, (-1,))
    canceller = None  # not asked here
    options = SpawnOptions().checked()
    return TaskRecord(1, canceller, function, (arguments, {}), options)  # type: ignore[arg-type]


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "without files"])
def test_errors_name_the_file_of_a_question_and_not_its_kind_or_contents(ended: bool) -> None:
    setups, task = _setups(), None if ended else _record()
    files = SpawnersFiles(lambda question: setups.answer(task, question))
    data = b"some secret"
    piece = Piece("/to", "out/a.txt", "0" * 12, 0, data, digest_of_piece(data), 0o644, 11)
    for ask, path in (
        (lambda: files.chunk("/data/in.txt", 0), "/data/in.txt"),
        (lambda: files.entries("/data/tree", ()), "/data/tree"),
        (lambda: files.write(piece), "/to/out/a.txt"),
    ):
        with pytest.raises(UnusableInput) as refused:
            ask()
        assert refused.value.path == path
        assert "secret" not in str(refused.value)


def test_an_ended_task_is_over() -> None:
    assert _setups().answer(None, IsOver()) is True
