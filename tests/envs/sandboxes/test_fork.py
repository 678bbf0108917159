"""A fork is what its origin is: files, shell; and neither sees what becomes of the other. Over both back ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from swegym.core.errors import SandboxError, SandboxLost
from swegym.core.sandbox import Sandbox, SandboxLimits, SandboxProvider, SandboxSpec
from swegym.envs.sandboxes import make_provider
from swegym.envs.sandboxes.base import ShellSandbox
from swegym.envs.sandboxes.copying import copy_folders
from swegym.envs.sandboxes.docker import DockerProvider, DockerSandbox
from swegym.envs.sandboxes.local import LocalProvider
from swegym.envs.sandboxes.pool import PooledSandbox, SandboxPool, _key

# The sandbox's roots, but for our own folder in /tmp.
FILES = """
find /testbed /tmp "$HOME" -path /tmp/.swegym -prune -o ! -type s ! -type d -printf '%y %m %n %U:%G %T@ %l %p\\n' | sort
find /testbed /tmp "$HOME" -path /tmp/.swegym -prune -o -type d ! -path /tmp -printf '%y %m %U:%G %T@ %p\\n' | sort
find /testbed /tmp "$HOME" -path /tmp/.swegym -prune -o -type f -size -9M -print0 | sort -z | xargs -0r sha1sum
python - <<'EOF'
import os
for root in ("/testbed", "/tmp", os.environ["HOME"]):
    for folder, _, names in os.walk(root):
        for path in sorted(os.path.join(folder, name) for name in names):
            attributes = {key: os.getxattr(path, key, follow_symlinks=False) for key in
                          os.listxattr(path, follow_symlinks=False) if key.startswith("user.test")}
            if attributes:
                print(path, attributes)
EOF
"""
MAKE_FILES = r"""
echo home >"$HOME/.profile2"; mkdir -p /tmp/deep/er; echo tmp >/tmp/deep/er/file
rm run.sh                                     # a white-out
rm -rf package; mkdir package; echo new >package/other.py   # an opaque folder
rm link; mkdir link; echo x >link/inside      # a link that became a folder
echo a >one; ln one two; ln one "$HOME/three" 2>/dev/null || true
ln -s one good; ln -s /nowhere/at/all bad; ln -s . loop
echo secret >closed; chmod 000 closed; mkdir shut; echo x >shut/x; chmod 000 shut; chmod 1777 link
mkfifo pipe; python -c "import socket; socket.socket(socket.AF_UNIX).bind('/tmp/socket')"
python -c "import os; os.setxattr('one', 'user.test', b'v\0w'); os.setxattr('/tmp/deep', 'user.test', b'dir')"
truncate -s 300M sparse; printf end >>sparse
printf x >$'new\nline'; printf x >"späce d"; printf x >-dash; printf x >$'\xff\xfe'
touch -d @1000000000.123456789 old; printf '' >empty; mkdir hollow; chmod 4755 one
printf '\0\1\2' >binary; echo late >appears; mv appears moved; rm -f /tmp/none
"""
SHELL = """
pwd; umask; shopt; set +o; alias; trap -p; declare -f mine; declare -F | grep -v _swegym; printf '<%s>' "$@"; echo
declare -p plain exported list map number fixed empty; echo "LANG=${LANG-unset}"; echo "$-"
echo $(env | grep -v '^_=' | sort)
"""
MAKE_SHELL = r"""
mkdir -p $'/tmp/a "folder"\n'; cd $'/tmp/a "folder"\n'
plain=$'1\n2'; export exported='e "x" $y'; list=(a 'b c' [7]=d); declare -A map=([k]='v w' [' ']='$z')
declare -i number=5
declare -r fixed=stays; empty=; unset LANG; export PATH="$PATH:/own"; IFS=,
mine() { echo "mine $plain" | cat; }; outside() { :; }; export -f outside
shopt -s expand_aliases extglob nullglob; alias ll='ls -l' quote="echo 'it'"
umask 027; set -o pipefail -f -C; set -u; trap 'echo usr' USR1; trap '' HUP
set -- one 'two three' ''
"""


async def text(sandbox: Sandbox, command: str) -> str:
    result = await sandbox.run(command)
    assert result.exit_code == 0, result.text
    return result.text


async def test_every_kind_of_file(sandbox: Sandbox) -> None:
    await text(sandbox, MAKE_FILES)
    before = await text(sandbox, FILES)
    assert "user.test" in before
    fork = await sandbox.fork()
    assert await text(fork, FILES) == before
    assert await text(sandbox, FILES) == before
    assert await text(
        fork, "chmod 400 closed; cat closed; stat -c %s sparse; (( $(stat -c %b sparse) < 100 )) && echo thin"
    ) == ("secret\n314572803\nthin\n")
    await text(fork, "echo more >>two")
    assert await text(fork, "cat one") == "a\nmore\n"  # they still are one file
    again = await fork.fork()
    assert await text(again, FILES) == await text(fork, FILES)


async def test_the_shell(sandbox: Sandbox) -> None:
    await sandbox.run(MAKE_SHELL)
    fork, before = await sandbox.fork(), await text(sandbox, SHELL)
    for wanted in ("trap -- 'echo usr' SIGUSR1", "noclobber", "declare -fx outside", "<two three><>", "LANG=unset"):
        assert wanted in before
    assert await text(fork, SHELL) == before
    result = await fork.run("mine; kill -USR1 $$; ll / >/dev/null && quote")
    assert (result.text, result.shell_restarted) == ("mine 1\n2\nusr\nit\n", False)
    assert (await fork.run("echo $nothing")).exit_code == 1  # set -u
    assert await text(sandbox, SHELL) == before


async def test_set_e_and_a_debug_trap_go_on(sandbox: Sandbox) -> None:
    await sandbox.run("n=0; set -e; trap 'n=$((n+1))' DEBUG")
    fork = await sandbox.fork()
    for each in (sandbox, fork):
        result = await each.run("trap -p DEBUG; false; echo not reached")
        assert (result.text, result.exit_code, result.shell_restarted) == ("trap -- 'n=$((n+1))' DEBUG\n", 1, True)


async def test_the_origin_notices_nothing(sandbox: Sandbox) -> None:
    await sandbox.run("sleep 300 & kept=$!; (exit 7)")
    fork = await sandbox.fork()
    assert await text(sandbox, "echo $? $((kept == $!)); jobs -r | wc -l; test -e /tmp/.swegym/copy || echo clean") == (
        "7 1\n1\nclean\n"
    )
    assert (
        await text(fork, "pgrep sleep | wc -l; jobs | wc -l; test -e /tmp/.swegym/copy || echo clean")
        == "0\n0\nclean\n"
    )


async def test_three_at_once_and_the_origin_is_closed(sandbox: Sandbox) -> None:
    await sandbox.run("cd package; x=1; echo start >state")
    forks = await asyncio.gather(*(sandbox.fork() for _ in range(3)))
    await sandbox.close()
    for number, fork in enumerate(forks):
        assert (
            await text(fork, f"pwd; echo $x; cat state; echo {number} >state; x={number}5")
            == "/testbed/package\n1\nstart\n"
        )
    assert [await text(fork, "cat state; echo $x") for fork in forks] == [f"{i}\n{i}5\n" for i in range(3)]
    second = await forks[1].fork()
    await forks[1].close()
    third = await second.fork()
    assert await text(third, "cat state; echo $x") == "1\n15\n"
    assert isinstance(third, ShellSandbox)
    sessions = [fork.session for fork in (sandbox, *forks, second, third) if isinstance(fork, ShellSandbox)]
    assert len({session._secret for session in sessions}) == 6  # what one prints cannot end another one's command


async def test_jobs_that_write_are_stopped_meanwhile(sandbox: Sandbox) -> None:
    await sandbox.run(
        "mkdir spin; (i=0; while :; do echo $i-$i >spin/$i; rm -f spin/$((i - 9)); i=$((i + 1)); done) & "
        "sleep 500 & sleep 0.1; kill -STOP $!; python -c 'import time; time.sleep(400)' & sleep 0.2"
    )
    for fork in await asyncio.gather(sandbox.fork(), sandbox.fork()):
        assert (
            await text(fork, "pgrep sleep; a=$(ls spin); sleep 0.2; [[ $a == $(ls spin) ]] && echo still") == "still\n"
        )
        numbers = sorted(map(int, (await text(fork, "ls spin")).split()))
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert len(numbers) in (8, 9, 10)
    a, b = [await text(sandbox, "sleep 0.2; ls spin") for _ in range(2)]
    assert a != b
    states = await text(sandbox, "for p in $(pgrep sleep; pgrep python); do cut -d' ' -f3 /proc/$p/stat; done")
    assert states.split() == ["T", "S"]  # what the agent had stopped stays stopped


async def test_snapshot(provider: SandboxProvider, sandbox: Sandbox, spec: SandboxSpec) -> None:
    await sandbox.run("cd package; x=1; set -f; rm ../run.sh; echo start >state; ln state other")
    snapshot = await sandbox.snapshot()
    await sandbox.run("x=2; echo changed >state")
    made = spec.model_copy(update={"image": snapshot})
    first, second = await asyncio.gather(provider.create(made), provider.create(made))
    await sandbox.close()
    assert await text(first, "pwd; echo $x $-; cat state; echo first >state") == "/testbed/package\n1 fhBs\nstart\n"
    fork = await second.fork()
    assert await text(fork, "pwd; echo $x; cat state; ls ..") == "/testbed/package\n1\nstart\nlink\npackage\n"


async def test_much_data(sandbox: Sandbox) -> None:
    await sandbox.run("head -c 60000000 /dev/urandom >big; for i in {1..300}; do echo $i >small$i; done")
    fork = await sandbox.fork()
    command = "cat big small* | sha1sum; ls | wc -l"
    assert await text(fork, command) == await text(sandbox, command)


async def test_it_has_a_life_time_of_its_own(provider: SandboxProvider, spec: SandboxSpec) -> None:
    origin = await provider.create(spec.model_copy(update={"limits": SandboxLimits(lifetime_s=6.0)}))
    await asyncio.sleep(2.5)
    fork = await origin.fork()
    with pytest.raises(SandboxLost, match="life time"):
        await origin.run("sleep 60")
    assert await text(fork, "echo lives") == "lives\n"


async def test_a_shell_that_ended_can_be_forked(sandbox: Sandbox) -> None:
    await sandbox.run("x=1; exit 3")
    fork = await sandbox.fork()
    assert await text(fork, "echo $x") == "1\n"
    await sandbox.run("x=2")
    await sandbox.run("(sleep 0.1; kill -9 $$) & disown")
    await asyncio.sleep(0.3)
    fork = await sandbox.fork()
    result = await sandbox.run("echo $x")
    assert (result.text, result.shell_restarted) == ("2\n", True)
    assert await text(fork, "echo $x") == "2\n"


async def test_names_of_the_agent_are_not_used(sandbox: Sandbox) -> None:
    await sandbox.run(
        "find() { echo no; }; tar() { false; }; kill() { false; }; exec() { false; }; env() { false; }; "
        "eval() { false; }; read() { false; }; printf() { false; }; alias head=false sort=false; "
        "shopt -s expand_aliases; PATH=/nowhere; export TAR_OPTIONS=--nonsense LD_PRELOAD=/nowhere.so; echo 1 >file"
    )
    fork = await sandbox.fork()
    assert await text(fork, 'unset -f read eval; echo "$(<file) $PATH"; declare -F tar') == "1 /nowhere\ntar\n"


@pytest.mark.docker
async def test_a_ready_sandbox_of_a_pool_becomes_the_fork(base_image: str, spec: SandboxSpec) -> None:
    pool = make_provider("docker", base_image=base_image, warm=1)
    assert isinstance(pool, SandboxPool)
    prepare = "echo prepared >one; echo prepared >two; mkdir -p deep/er"
    spec = spec.model_copy(update={"prepare_command": prepare, "labels": {"who": "test"}})
    origin = await pool.create(spec)
    await origin.run("x=1; rm one; echo changed >two; rmdir deep/er; touch deep/new; mv package moved; cd moved")
    while pool.num_ready == 0:
        await asyncio.sleep(0.02)
    ((_, ready),) = pool._shelf._sections[_key(spec)].ready
    assert isinstance(ready, DockerSandbox)
    fork = await origin.fork()
    assert fork.sandbox_id == ready.sandbox_id
    assert isinstance(fork, PooledSandbox)
    assert ready.spec.labels == {"who": "test"}
    command = "pwd; echo $x; ls -R ..; cat ../two"
    assert await text(fork, command) == await text(origin, command)
    await fork.close()
    await pool.close()


# --- failures ---------------------------------------------------------------------------------------------------------


async def is_alone(provider: SandboxProvider, tmp_path: Path) -> bool:
    """Whether one sandbox of the provider is left. An engine goes on removing a container after it has said so."""
    if not isinstance(provider, DockerProvider):
        return len(list((tmp_path / "sandboxes").glob("swegym-*"))) == 1
    label = next(f"{key}={value}" for key, value in provider.labels.items() if key.endswith("provider"))
    for _ in range(100):
        if len(provider.client.containers(all=True, filters={"label": label})) == 1:
            return True
        await asyncio.sleep(0.1)
    return False


async def test_a_fork_that_does_not_start(provider: SandboxProvider, sandbox: Sandbox, tmp_path: Path) -> None:
    await sandbox.run("x=1; sleep 300 &")
    assert isinstance(provider, LocalProvider | DockerProvider)
    provider.config = provider.config.model_copy(update={"start_timeout_s": 1e-6})
    with pytest.raises(SandboxError, match="did not start"):
        await sandbox.fork()
    assert await text(sandbox, "echo $x; jobs -r | wc -l") == "1\n1\n"
    assert await is_alone(provider, tmp_path)


async def test_cancelled_in_the_middle(provider: SandboxProvider, sandbox: Sandbox, tmp_path: Path) -> None:
    await sandbox.run("x=1; head -c 50000000 /dev/zero | tr '\\0' x >big; sleep 300 &")
    for delay_s in (0.0, 0.05):
        forking = asyncio.create_task(sandbox.fork())
        await asyncio.sleep(delay_s)
        forking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await forking
        assert await text(sandbox, "echo $x; jobs -r | wc -l") == "1\n1\n"
        assert await is_alone(provider, tmp_path)


async def test_closed_sandboxes_cannot_be_copied(sandbox: Sandbox) -> None:
    await sandbox.close()
    with pytest.raises(SandboxLost):
        await sandbox.fork()
    with pytest.raises(SandboxLost):
        await sandbox.snapshot()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "swegym-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_the_hosts_disk_is_full(small_disk: Path, spec: SandboxSpec) -> None:
    provider = make_provider("local", temp_folder=str(small_disk), workdir_storage="copy")
    sandbox = await provider.create(spec)
    await sandbox.run("head -c 15000000 /dev/zero >big; sleep 300 &")
    for copying in (sandbox.fork, sandbox.snapshot):
        with pytest.raises(SandboxError, match="No space left"):
            await copying()
        assert await text(sandbox, "jobs -r | wc -l; stat -c %s big") == "1\n15000000\n"
        assert len(list(small_disk.glob("swegym-*"))) == 1
    await sandbox.run("rm big")
    assert await text(await sandbox.fork(), "ls") == "link\npackage\nrun.sh\n"
    await provider.close()


@pytest.mark.docker
async def test_an_image_without_tar_is_committed(base_image: str, spec: SandboxSpec) -> None:
    provider = make_provider("docker", base_image=base_image)
    assert isinstance(provider, DockerProvider)
    sandbox = await provider.create(spec)
    await sandbox.run("x=1; echo 1 >state; rm $(type -P tar) run.sh")
    fork = await sandbox.fork()
    assert isinstance(fork, DockerSandbox)
    await sandbox.close()
    assert await text(fork, "echo $x; cat state; ls") == "1\n1\nlink\npackage\nstate\n"
    again = await fork.fork()
    await fork.close()
    assert await text(again, "echo $x; cat state") == "1\n1\n"
    assert isinstance(again, DockerSandbox)
    images = {fork.image, again.image}
    assert len(images) == 2
    assert sandbox.image not in images  # type: ignore[attr-defined]
    await provider.close()
    for image in images:
        assert subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 1


def test_an_owner_without_privileges_copies_what_he_closed(tmp_path: Path) -> None:
    """Root reads every file; another owner of a local sandbox cannot read those that the agent closed (mode 000)."""
    if os.geteuid() != 0:
        pytest.skip("only root can look at the result")
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source / "shut" / "in", target):
        folder.mkdir(parents=True)
    (source / "closed").write_text("secret")
    (source / "open").write_text("open")
    (source / "shut" / "in" / "file").write_text("deep")
    (source / "link").symlink_to("closed")
    paths = {"closed": 0o000, "shut/in/file": 0o200, "shut/in": 0o100, "shut": 0o000}
    for path, mode in paths.items():
        (source / path).chmod(mode)
    for entry in (source, *source.rglob("*"), target):
        os.chown(entry, 65534, 65534, follow_symlinks=False)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            copy_folders([source], target)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for root in (source, target / "source"):
        assert {path: (root / path).stat().st_mode & 0o777 for path in paths} == paths
    assert (target / "source" / "closed").read_text() == "secret"
    assert (target / "source" / "shut" / "in" / "file").read_text() == "deep"
    assert (target / "source" / "link").readlink() == Path("closed")
