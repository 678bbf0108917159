"""Whatever a command does to its shell has a defined result, and the next command and file operation work.

The rows share one sandbox of each back end; only the shell's state is thrown away between them. What their peers
stumbled on is in brackets: ids of rows in the list of failures that users of others have met.
"""

from __future__ import annotations

import pytest
import pytest_asyncio

from swegym.core.sandbox import ExecResult, Sandbox
from tests.envs.sandboxes.conftest import BASE_IMAGE

pytestmark = pytest.mark.asyncio(loop_scope="module")

AFRESH = "PATH=/usr/bin:/bin; umask 022; rm -rf /tmp/.swegym /tmp/scratch; mkdir /tmp/scratch /tmp/.swegym"
CONTENT = b"line\n\0\xff" * 3000
EVERY_BUILTIN = (
    "cd eval builtin trap read printf local set unset command declare export return exit shopt umask kill test"
)


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def _new_shell(jail: Sandbox) -> None:
    await jail.run("\\kill -9 $$")  # options are not kept
    await jail.run(f"\\exec -c /bin/sh -c '{AFRESH}'")  # with no environment, however long it became


async def next_ones_work(sandbox: Sandbox, *, noise: bool = False) -> None:
    """Three commands and two file operations, with right exit codes and in order. `noise`: traces may be between."""
    for i in (0, 1, 0):
        result = await sandbox.run(f"echo out{i}; echo err{i} >&2; (({1 - i}))")
        lines = result.text.splitlines()
        if noise:
            lines = [line for line in lines if line in (f"out{i}", f"err{i}")]
        assert (lines, result.exit_code, result.killed_by) == ([f"out{i}", f"err{i}"], i, None), result
        await sandbox.write_file("/tmp/scratch/file", CONTENT)
        assert await sandbox.read_file("/tmp/scratch/file") == CONTENT


def row(command: str, exit_code: int, text: str | None = "", *, new_shell: bool = False, name: str = "") -> object:
    """`text` None: it says something, and what is not ours to fix."""
    return pytest.param(command, exit_code, text, new_shell, id=name or command[:40])


@pytest.mark.parametrize(
    ("command", "exit_code", "text", "new_shell"),
    [
        # the shell ends [D7, D23]
        row("exit 3", 3, new_shell=True),
        row("exec true", 0, new_shell=True),
        row("exec bash -c 'exit 5'", 5, new_shell=True),
        row("exec bash", 0, new_shell=True),
        row("set -e; false; echo not reached", 1, new_shell=True),
        row("set -u; echo $undefined", 1, None, new_shell=True),
        row("set -euo pipefail; true | false", 1, new_shell=True),
        row("kill -9 $$", 137, new_shell=True),
        row("kill 0", 143, new_shell=True),
        row("kill -9 0", 137, new_shell=True),
        row("kill -HUP $$", 129, new_shell=True),
        row("set -t", 0, new_shell=True),
        row("sleep 100 & exit 3", 3, new_shell=True),
        row("trap 'echo bye; exit 5' EXIT; exit 2", 5, "bye\n", new_shell=True),
        row("trap 'exit 3' DEBUG", 3, new_shell=True),
        # descriptors [D23]
        row("exec 1>&-", 0),
        row("exec 0<&-", 0),
        row("exec 0<&1", 0),
        row("exec </etc/passwd", 0),
        row("exec >/tmp/scratch/log 2>&1; echo hidden", 0),
        row("exec 38>&- 30>&- 31>&-; exec 31>/dev/null", 0),
        row("exec 3>/tmp/scratch/f; echo x >&3; cat /tmp/scratch/f", 0, "x\n"),
        row("echo A 1 2 3 4 >&30; echo x >&31", 1, None),
        # syntax that does not end [D12, D16, D26]
        row("echo 'abc", 2, None),
        row("cat <<EOF\nabc", 0, None, name="heredoc without end"),
        row("cat <<EOF\n<html>\nEOF", 0, "<html>\n", name="heredoc that begins with <"),
        row("x=$(cat <<'EOF'\nit's\nEOF\n); echo \"$x\"", 0, "it's\n", name="apostrophe in a heredoc in $()"),
        row("echo $(", 2, None),
        row("echo `", 2, None),
        row("echo ${", 2, None),
        row("if true; then\r\necho b\r\nfi\r", 2, None, name="CRLF in a compound command"),
        row("echo a\r\necho b\r", 0, "a\r\nb\r\n", name="CRLF"),
        row("echo 'a\tb'", 0, "a\tb\n", name="TAB [D13]"),
        row("cat >/tmp/scratch/Makefile <<EOF\nall:\n\t@echo made\nEOF\ngrep -c '\t' /tmp/scratch/Makefile", 0, "1\n"),
        row("# comment", 0),
        row("   \n\n", 0, name="blanks"),
        # nobody is there to answer [D8, D9, D21]
        row("read -p 'Name? ' x; echo got=$x", 0, "got=\n"),
        row("read x", 1),
        row("select x in a b; do echo $x; done", 1, None),
        row("mapfile x; echo ${#x[@]}", 0, "0\n"),
        row("python -c 'input()'", 1, None),
        row("python", 0),
        row("cat; sort; wc -l", 0, "0\n"),
        row("read y </dev/tty", 1, None),
        row("bash -i", 0, None),
        row("git -C /testbed log", 128, None),
        row(
            "git init -q /tmp/scratch/g && cd /tmp/scratch/g && git -c user.name=a -c user.email=a@b commit -qm x "
            "--allow-empty && git -c core.pager=less log --format=%s",
            0,
            "x\n",
            name="pager",
        ),
        row("sudo -n true || su nobody -c true </dev/null; true", 0, None),
        row("stty -a; clear; tput cols; true", 0, None),
        # bytes [D19]
        row(
            r"printf '\036%s 0 0\036' 0123456789abcdef0123456789abcdef",
            0,
            "\x1e0123456789abcdef0123456789abcdef 0 0\x1e",
        ),
        row(r"printf 'a\0b'", 0, "a\0b"),
        row(r"printf '\xff\xc3'", 0, "��"),
        row("printf abc", 0, "abc"),
        row("printf '\\n\\n'", 0, "\n\n"),
        # settings that stay [D11, D18]
        row("export PS1='$ ' PROMPT_COMMAND='exit 9' PS0='$(kill -9 $$)'", 0),
        row("echo 'exit 9' >/tmp/scratch/env; export BASH_ENV=/tmp/scratch/env ENV=/tmp/scratch/env", 0),
        row("export LANG=xx LC_ALL=xx", 0, None),
        row("export LC_ALL=C; x=äöü; echo ${#x}", 0, "6\n"),
        row("readonly LC_ALL=C.UTF-8", 0),
        row("IFS=0123456789; (exit 10)", 10),
        row("readonly IFS=x", 0),
        row("readonly PATH HOME PWD OLDPWD", 0),
        row("readonly path=1 line=1 up=1 last=1 status=1 key=1 folder=1 new=1 file=1", 0),
        row("readonly _swegym=1 _swegym_status=2", 0),
        row("declare -i _swegym _swegym_status", 0),
        row("declare -u _swegym", 0),
        row("declare -n _swegym=other", 0),
        row("unset _swegym _swegym_saved _swegym_generation PATH HOME IFS", 0),
        row("PATH=/nonexistent", 0),
        row("TMPDIR=/nonexistent; GLOBIGNORE='*'; EXECIGNORE='*'; CDPATH=/:/tmp; TMOUT=1; FIGNORE=x", 0),
        row("export BIG=$(head -c 1000000 /dev/zero | tr '\\0' x); printf ${#BIG}", 0, "1000000"),
        row("umask 777", 0),
        row("set -f -k -h -B -a -m -b -p -P -H", 0),
        row("set -C", 0),
        row("set -r", 0),
        row("set -o posix; export POSIXLY_CORRECT=1", 0),
        row("shopt -s extdebug nocasematch nullglob failglob dotglob lastpipe inherit_errexit compat31", 0),
        row("alias cd=false eval=false builtin=false read=false; shopt -s expand_aliases", 0),
        row("shopt -s expand_aliases; alias if=while for=false local=false fi=false", 0),
        row(
            "; ".join(f"{name}() {{ false; }}" for name in EVERY_BUILTIN.split()),
            0,
            name="failing functions named like builtins",
        ),
        row(
            "; ".join(f"{name}() {{ true; }}" for name in EVERY_BUILTIN.split()),
            0,
            name="functions named like builtins that do nothing",
        ),
        row("; ".join(f"alias {name}=false" for name in EVERY_BUILTIN.split()), 0, name="aliases named like builtins"),
        row(": () { echo wrong; }; true() { false; }", 0),
        row("enable -n read printf eval local trap builtin return set", 0),
        row("_swegym_end() { :; }; unset -f _swegym_begin", 1, None),
        row("_swegym_end 0 secret; _swegym_settle x; _swegym_arm 1 1; _swegym_read 3 100 9 x; true", 0, None),
        row("trap '' USR1 USR2 TERM CHLD INT PIPE", 0),
        row("set -ET; trap 'true' ERR", 0),
        row("ulimit -t 1; ulimit -s 16; ulimit -v 50000; ulimit -d 100", 0),
        row("ulimit -f 0", 0),
        row("history; history -c; set -o history; history -s x", 0),
        row("mkdir /tmp/scratch/d && cd /tmp/scratch/d && rmdir ../d", 0),
        row("mkdir -p $'/tmp/scratch/a\\nb\\n' && cd $'/tmp/scratch/a\\nb\\n' && exit 4", 4, new_shell=True),
        row("mkdir /tmp/scratch/d; cd /tmp/scratch/d; rmdir ../d; exit 2", 2, None, new_shell=True),
        # our own folder
        row("rm -rf /tmp/.swegym; exit 3", 3, new_shell=True),
        row("rm -rf /tmp/.swegym; : >/tmp/.swegym; exit 3", 3, None, new_shell=True),
        row(
            "rm -rf /tmp/.swegym/*; mkdir /tmp/.swegym/{armed,cwd,state.0,state.1}; kill -9 $$",
            137,
            None,
            new_shell=True,
        ),
        row("rm -rf /tmp/.swegym/*; mkfifo /tmp/.swegym/{armed,cwd}", 0),
        row("echo 'exit 7' | tee /tmp/.swegym/state.0 >/tmp/.swegym/state.1; kill -9 $$", 137, new_shell=True),
        # jobs
        row("sleep 100 & echo started", 0, "started\n"),
        row("sleep 100 & disown; setsid sleep 100 & true", 0),
        row("coproc cat; echo hi >&${COPROC[1]}; read x <&${COPROC[0]}; echo $x", 0, "hi\n"),
        row("f() { return 5; }; f", 5),
        row("break 3; continue; return 5", 2, None),
        row("fg; bg; suspend; logout; caller", 1, None),
    ],
)
async def test_next_command_works(
    jail: Sandbox, command: str, exit_code: int, text: str | None, new_shell: bool
) -> None:
    result = await jail.run(command, timeout_s=20)
    assert (result.exit_code, result.shell_restarted, result.killed_by) == (exit_code, new_shell, None), result
    assert result.text == text or text is None
    await next_ones_work(jail)


@pytest.mark.parametrize(
    "command",
    [
        "set -x",
        "set -v",
        "PS4='$(exit 1)'; set -x",
        "trap 'echo trapped' DEBUG",
        "set -T; trap 'echo d' DEBUG",
        "set -T; trap 'exit 8' RETURN",
    ],
)
async def test_traces_stay_out_of_files(jail: Sandbox, command: str) -> None:
    await jail.run(command)
    await next_ones_work(jail, noise=True)


@pytest.mark.parametrize(
    "command",
    [
        "set -n",
        "shopt -s extdebug; trap false DEBUG",
        "set -T; trap 'cat' DEBUG",
        "kill -STOP 0",
        "suspend -f",
        "while :; do read -t 1 </dev/zero; done",
        "yes '' | sphinx-quickstart || yes",
    ],
)
async def test_what_only_the_time_limit_ends(jail: Sandbox, command: str) -> None:
    result = await jail.run(command, timeout_s=0.5, limit_bytes=1000)
    assert (result.exit_code, result.killed_by, result.shell_restarted) == (124, "timeout", True)
    assert len(result.output) <= 1000
    await next_ones_work(jail)


async def test_functions_outlive_a_mended_shell(jail: Sandbox) -> None:
    await jail.run("builtin() { false; }; cd() { echo mine; }; x=1")
    assert (await jail.run("exit 3")).exit_code == 3
    assert (await jail.run("cd; echo $x")).text == "mine\n1\n"


async def test_read_does_not_take_the_next_command(jail: Sandbox) -> None:
    """[D9]: others report exit 0 for a command that was swallowed as an answer."""
    for i in range(5):
        assert (await jail.run("read -p '? ' answer; echo \"<$answer>\"")).text == "<>\n"
        assert (await jail.run(f"echo {i}; (exit {i})")).exit_code == i


async def test_earlier_markers_replayed(jail: Sandbox) -> None:
    """Whoever reads a command's secret out of the channel can only shorten the output of that command."""
    script = r"""
import os, re, sys, time
seen = b""
for fd in (37, 0):
    try:
        channel = os.open(f"/proc/{sys.argv[1] if fd == 0 else 1}/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK)
        seen += os.read(channel, 4096)
    except OSError:
        pass
for secret in set(re.findall(rb"[0-9a-f]{32}", seen)):
    os.write(1, b"\x1e" + secret + b" x y\x1e" + b"\x1e" + secret + b"a" * 400)
    os.write(1, b"\x1e" + secret + b" 0 0\x1e")
"""
    await jail.write_file("/tmp/scratch/forge.py", script.encode())
    await jail.run("python /tmp/scratch/forge.py $$; (exit 9)", timeout_s=1.0)
    assert (await jail.run("sleep 0.2; echo later")).text.endswith("later\n")
    await next_ones_work(jail)


@pytest.mark.parametrize("end", ["exit 7", "kill -9 $$"])
async def test_a_shell_that_cannot_load_its_state(jail: Sandbox, end: str) -> None:
    """The state is the agent's to spoil; it then begins afresh, once."""
    poison = rf"for i in 0 1; do printf '%s\n# complete 99\n' '{end}' >/tmp/.swegym/state.$i; done"
    await jail.run(f"x=1; (sleep 0.1; {poison}; kill -9 $$) & sleep 5")
    result = await jail.run("echo alive $x")
    assert (result.text, result.exit_code) == ("alive\n", 0)
    await next_ones_work(jail)


async def test_background_output_is_dropped_between_commands(jail: Sandbox) -> None:
    """[D10]: others show it in the output of a later command."""
    await jail.run("(sleep 0.1; echo late) & true")
    await jail.run("wait")
    assert (await jail.run("echo mine")).text == "mine\n"


@pytest.mark.parametrize("size", [2_500_000])
async def test_command_beyond_every_argument_limit(jail: Sandbox, size: int) -> None:
    assert (await jail.run(f"text='{'x' * size}'; echo ${{#text}}; unset text")).text == f"{size}\n"
    assert (await jail.run(f"cat <<'EOF' | wc -c\n{'y' * size}\nEOF")).text == f"{size + 1}\n"
    assert (await jail.run(f"text='{'ü' * size}'; echo ${{#text}}; unset text")).text == f"{size}\n"


@pytest.mark.parametrize(
    "name", ["a\nb", "-rf", "--", " ", "é\u0301 日本 🐍", "'\"$(exit 9)`", "*?[", "\\n", "~", "\udcff\udcfe"]
)
async def test_names(jail: Sandbox, name: str) -> None:
    path = f"/tmp/scratch/{name}/{name}"
    await jail.write_file(path, CONTENT)
    assert await jail.read_file(path) == CONTENT
    await jail.run("cd /tmp/scratch/*/")
    assert await jail.read_file(f"./{name}") == CONTENT


async def test_shell_restarts_are_told(jail: Sandbox) -> None:
    def facts(result: ExecResult) -> tuple[str, bool]:
        return result.text, result.shell_restarted

    assert facts(await jail.run("echo a")) == ("a\n", False)
    await jail.run("(sleep 0.1; kill -9 $$) & true")
    await jail.run("sleep 0.3")
    assert facts(await jail.run("echo b")) == ("b\n", False)
    assert BASE_IMAGE
