"""What a test runner printed, read as statuses of tests: for task formats whose tests are not ours to instrument.

A log is written by the process under test, so nothing in it is proof; `log_run` holds it against sentinels and the exit
code. What can be right here is the reading: ids with blanks, failing teardowns, colours, interleaved output.
"""

from swegym.envs.graders.log_parsers.base import LogParser, ParsedLog, match_ids
from swegym.envs.graders.log_parsers.registry import PARSERS, parse_log

__all__ = ["PARSERS", "LogParser", "ParsedLog", "match_ids", "parse_log"]
