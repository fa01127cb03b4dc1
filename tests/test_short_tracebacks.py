"""Short tracebacks in logs: frames of the user's own code, and not those of libraries."""

from __future__ import annotations

from encamp.short_tracebacks import brief_log

LOG = """\
reading strip5
Traceback (most recent call last):
  File "/home/ann/survey.py", line 12, in grid
    las = laspy.read(
          ^^^^^^^^^^^
    name)
  File "/usr/lib/python3/dist-packages/laspy/lib.py", line 3, in read
    with open_las(
         ^^^^^^^^^
        source) as file:
  File "<frozen codecs>", line 1, in decode
  File "/usr/lib/python3.12/struct.py", line 9, in unpack
    return unpack(data)
laspy.errors.LaspyException: Invalid file signature
More words
    of it
"""


def test_frames_of_libraries_are_left_out() -> None:
    assert brief_log(LOG, 20) == [
        "reading strip5",
        "Traceback (most recent call last):",
        '  File "/home/ann/survey.py", line 12, in grid',
        "    las = laspy.read(",
        "    name)",
        "laspy.errors.LaspyException: Invalid file signature",
        "More words",
        "    of it",
    ]
    assert brief_log(LOG, 2) == ["More words", "    of it"]


def test_a_traceback_of_libraries_alone_and_any_other_text_stay() -> None:
    tail = LOG.partition("name)\n")[2]
    assert brief_log(tail, 100) == tail.splitlines()
    text = "    indented\n  ^^^\nplain\n"
    assert brief_log(text, 2) == ["  ^^^", "plain"]
    assert brief_log("", 5) == []
