"""The persistent shell: whatever a command does, its result is defined and the next command works."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from swegym.core.errors import ConfigError
from swegym.core.sandbox import Sandbox


async def output(sandbox: Sandbox, command: str, exit_code: int = 0, **options: float) -> str:
    result = await sandbox.run(command, **options)  # type: ignore[arg-type]
    assert result.exit_code == exit_code, result
    return result.text


async def test_state_persists(sandbox: Sandbox) -> None:
    await output(sandbox, "cd package; plain=1; export exported=2; array=(x 'y z'); twice() { echo $(($1 * 2)); }")
    assert await output(sandbox, "pwd; echo $plain; printenv exported; echo ${array[1]}; twice 4; ls") == (
        "/testbed/package\n1\n2\ny z\n8\nmodule.py\n"
    )


async def test_declare_in_a_command_is_global(sandbox: Sandbox) -> None:
    await output(sandbox, "declare -A table=([key]=value); declare number=7")
    assert await output(sandbox, "echo ${table[key]} $number") == "value 7\n"


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [("true", 0), ("false", 1), ("(exit 77)", 77), ("no-such-program", 127), ("sh -c 'kill -9 $$'", 137), ("", 0)],
)
async def test_exit_codes(sandbox: Sandbox, command: str, exit_code: int) -> None:
    result = await sandbox.run(command)
    assert (result.exit_code, result.killed_by, result.shell_restarted) == (exit_code, None, False)


async def test_last_exit_code_is_visible_to_the_next_command(sandbox: Sandbox) -> None:
    await output(sandbox, "(exit 5)", 5)
    assert await output(sandbox, "echo $?") == "5\n"


async def test_stdout_and_stderr_keep_their_order(sandbox: Sandbox) -> None:
    command = "for i in 1 2 3 4 5; do echo out$i; echo err$i >&2; done; echo x >/dev/stderr; echo y >/dev/stdout"
    assert await output(sandbox, command) == "".join(f"out{i}\nerr{i}\n" for i in range(1, 6)) + "x\ny\n"


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        ("exit 3", 3),
        ("f() { exit 4; }; f", 4),
        ("set -e; false; echo not reached", 1),
        ("set -eu; cd /nonexistent", 1),
        ("set -u; echo $undefined", 1),
        (": ${undefined:?}", 1),
        ("exec true", 0),
        ("exec no-such-program", 127),
        ("kill -9 $$", 137),
        ("kill $$", 143),
        ("bash -c 'kill -9 $PPID'", 137),
        ("trap 'echo bye' EXIT; exit 6", 6),
    ],
)
async def test_ended_shell_is_restarted_with_its_state(sandbox: Sandbox, command: str, exit_code: int) -> None:
    await output(sandbox, "cd package; x='a b'; f1() { echo f1 $x; }; shopt -s extglob; alias q=echo; export E=1")
    result = await sandbox.run(command)
    assert (result.exit_code, result.shell_restarted, result.killed_by) == (exit_code, True, None)
    assert await output(sandbox, "pwd; f1; shopt extglob; printenv E") == (
        "/testbed/package\nf1 a b\nextglob        \ton\n1\n"
    )
    assert not (await sandbox.run("false; true")).shell_restarted


async def test_kill_everything(sandbox: Sandbox) -> None:
    await output(sandbox, "cd package; x=1")
    assert (await sandbox.run("kill -9 -1")).exit_code in (0, 137)
    assert await output(sandbox, "pwd; echo $x") == "/testbed/package\n1\n"
    killed = await sandbox.run("kill -9 -1; sleep 600", timeout_s=0.5)
    assert killed.killed_by == "timeout"
    await sandbox.run("python -c 'import os; os.kill(-1, 9)'")
    assert await output(sandbox, "pwd") == "/testbed/package\n"


@pytest.mark.parametrize(
    "command",
    ["echo 'abc", 'echo "abc', "cat <<EOF\nabc", "if true; then", "echo $(", "f() {", "case x in", "((", ")", "<<<"],
)
async def test_incomplete_syntax(sandbox: Sandbox, command: str) -> None:
    result = await sandbox.run(command, timeout_s=5)
    assert result.killed_by is None
    for i in range(10):
        assert await output(sandbox, f"echo fine {i}") == f"fine {i}\n"
        assert not (await sandbox.run("true")).shell_restarted


@pytest.mark.parametrize("command", ["echo $(", 'x="$(echo ")"', "cat <(echo", "echo $(;)", "pwd; $(case x in"])
async def test_unclosed_substitution_is_a_syntax_error(sandbox: Sandbox, command: str) -> None:
    result = await sandbox.run(command)
    assert (result.exit_code, result.shell_restarted) == (2, False)
    assert result.text.startswith("bash: eval: ")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("shopt -s extglob\necho $(echo 1) !(link|run.sh)", "1 package\n"),
        ("# comment $(\necho a", "a\n"),
        ("cat <<'EOF'\n$( unclosed\nEOF", "$( unclosed\n"),
        ("echo '$('; (exit 0)", "$(\n"),
        ("if !(false); then echo $((1 + 2)) $(echo x); fi", "3 x\n"),
        ("set -- a b\necho $(echo $2) $(cat <<< c) $(case q in q) echo d;; esac)", "b c d\n"),
        ("set -e; x=$(false) || echo kept", "kept\n"),
        ("set -e; ! true", ""),
    ],
)
async def test_parsing_first_changes_no_meaning(sandbox: Sandbox, command: str, text: str) -> None:
    await sandbox.run("(exit 5)")
    assert await output(sandbox, "echo $? $(echo x)") == "5 x\n"
    assert (await sandbox.run(command)).text == text


@pytest.mark.parametrize(
    "command",
    ["cat", "read x", "python -c 'input()'", "git commit", "git log", "less /etc/passwd", "sudo true", "bash"],
)
async def test_nothing_waits_for_input(sandbox: Sandbox, command: str) -> None:
    result = await sandbox.run(command, timeout_s=20)
    assert result.killed_by is None
    assert await output(sandbox, "echo fine") == "fine\n"


@pytest.mark.parametrize(
    "command",
    [
        "exec >&-",
        "exec 2>&1 >/dev/null",
        "exec <&-",
        "exec </dev/null",
        "exec 38>&- 30>&- 31>&-",
        "break; continue",
        "return 3",
        "set -x",
        "set -v",
        "set -f",
        "set -o posix",
        "shopt -s expand_aliases; alias builtin=false eval=false printf=false",
        "printf() { echo wrong; }; builtin() { echo wrong; }; unset -f builtin printf",
        "export PS1='$ '; PROMPT_COMMAND='echo prompt'",
        "IFS=x",
        "LC_ALL=C; LANG=C",
        "PATH=/nonexistent",
        "umask 777; umask 022",
        "trap 'echo trapped' DEBUG ERR",
        "readonly fixed=1; fixed=2",
        "unset -f _swegym_end",
        "cd /; ulimit -n 40",
    ],
)
async def test_odd_settings_do_no_lasting_harm(sandbox: Sandbox, command: str) -> None:
    result = await sandbox.run(command, timeout_s=5)
    assert result.killed_by is None
    lines = (await output(sandbox, "echo one; echo two >&2")).splitlines()
    assert [line for line in lines if line in ("one", "two")] == ["one", "two"]
    await sandbox.write_file("/tmp/file", b"content\0\xff")
    assert await sandbox.read_file("/tmp/file") == b"content\0\xff"


async def test_a_shell_that_executes_nothing_any_more(sandbox: Sandbox) -> None:
    """`set -n` is the worst of settings: only the time limit ends it."""
    result = await sandbox.run("set -n", timeout_s=0.5)
    assert result.killed_by == "timeout"
    assert await output(sandbox, "echo fine") == "fine\n"


async def test_output_cannot_forge_the_end(sandbox: Sandbox) -> None:
    marker = r"printf '\036%s 0 0\036' 0123456789abcdef0123456789abcdef"
    result = await sandbox.run(f"{marker}; cat /proc/$$/environ /proc/$$/cmdline; sleep 0.05; echo after; (exit 9)")
    assert result.exit_code == 9
    assert result.output.startswith(b"\x1e0123456789abcdef0123456789abcdef 0 0\x1e")
    assert result.output.endswith(b"after\n")


async def test_bytes_pass_unchanged(sandbox: Sandbox) -> None:
    result = await sandbox.run(r"printf 'nul\0 \xff\xfe \x1e\x1e tab\t \r\n last'")
    assert result.output == b"nul\0 \xff\xfe \x1e\x1e tab\t \r\n last"
    assert result.text == "nul\0 �� \x1e\x1e tab\t \r\n last"


async def test_unicode_and_tabs_in_commands(sandbox: Sandbox) -> None:
    text = "grüße\t日本\r 🐍"
    assert await output(sandbox, f"echo '{text}'") == text + "\n"
    assert await output(sandbox, "x=äöü; echo ${#x}") == "3\n"


async def test_nul_in_a_command_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigError, match="NUL"):
        await sandbox.run("echo a\0b")
    assert await output(sandbox, "echo fine") == "fine\n"


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf")])
async def test_impossible_time_limit_is_refused(sandbox: Sandbox, timeout_s: float) -> None:
    with pytest.raises(ConfigError, match="timeout_s"):
        await sandbox.run("true", timeout_s=timeout_s)


async def test_command_longer_than_the_kernel_takes_as_argument(sandbox: Sandbox) -> None:
    body = "x" * 300_000
    assert await output(sandbox, f"text='{body}'; echo ${{#text}}") == "300000\n"


async def test_long_output_keeps_head_and_tail(sandbox: Sandbox) -> None:
    result = await sandbox.run("seq 1 200000", limit_bytes=1001)
    whole = "".join(f"{i}\n" for i in range(1, 200_001)).encode()
    assert result.output == whole[:501] + whole[-500:]
    assert result.truncated_bytes == len(whole) - 1001


async def test_one_line_of_100_mb_in_little_memory(sandbox: Sandbox) -> None:
    tracemalloc.start()
    try:
        result = await sandbox.run("head -c 100000000 /dev/zero | tr '\\0' x", limit_bytes=1_000_000)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (result.output, result.truncated_bytes) == (b"x" * 1_000_000, 99_000_000)
    assert peak_bytes < 8_000_000


async def test_commands_at_once_wait_for_each_other(sandbox: Sandbox) -> None:
    results = await asyncio.gather(*(sandbox.run(f"echo {i}; sleep 0.01; echo {i}") for i in range(5)))
    assert [result.text for result in results] == [f"{i}\n{i}\n" for i in range(5)]


async def test_shell_killed_between_commands(sandbox: Sandbox) -> None:
    await output(sandbox, "x=1; (sleep 0.2; kill -9 $$) &")
    await asyncio.sleep(0.6)
    result = await sandbox.run("echo alive")
    assert (result.text, result.exit_code, result.shell_restarted) == ("alive\n", 0, True)


async def test_environment_is_fixed(sandbox: Sandbox) -> None:
    assert await output(sandbox, "date +%Z; printenv PYTHONHASHSEED LANG; git config --get-all safe.directory") == (
        "UTC\n0\nC.UTF-8\n*\n"
    )
