# Sourced by the agent's shell when it starts. That shell is a plain non-interactive bash whose script is the channel
# (stdin), so every command is evaluated at top level, where `break`, `return` and `declare` act as anywhere else.
# The host sends, per command,
#   \_swegym_begin LENGTH TIMEOUT SAVE;\builtin eval -- "$_swegym" </dev/null >&61 2>&61 58>&- 60>&- 61>&-
#   (LENGTH bytes of the command)\_swegym_end $? NONCE
# (the backslashes keep aliases out). The shell's own stdout and stderr are /dev/null (`set -x` traces our lines there); 61 is the channel out,
# 60 the watchdog's pipe and 58 the data stream. A redirection of `eval` is undone after it, whatever `exec` did inside.

unset BASH_ENV
exec 55<&-
set -- "$_swegym_saved" "$_swegym_generation" # the loaded state has values of its own for these
if [[ $_swegym_loaded ]]; then . "$_swegym_loaded"; fi
declare +x _swegym_loaded
declare +x _swegym_saved=$1 _swegym_generation=$2
set --
if [[ -s /tmp/.swegym/cwd ]]; then cd -- "$(</tmp/.swegym/cwd)" && : >/tmp/.swegym/cwd; fi

# Write what makes this shell: working directory, options of shopt, umask, functions, variables, aliases.
_swegym_save() {
    builtin set +eu
    _swegym=
    {
        builtin shopt -p
        [[ -o pipefail ]] && builtin printf 'set -o pipefail\n'
        builtin umask -p
        builtin declare -f
        builtin alias -p
        builtin declare -p
        builtin printf 'cd -- %q\n# complete %d\n' "$PWD" "$_swegym_generation"
    } >"$_swegym_saved"
}

_swegym_arm() {
    local up last IFS=$' \t\n'
    builtin read -r up last </proc/uptime
    builtin read -r last last last last last </proc/loadavg
    builtin printf -v last 'A %d %d %d %d' "$$" "$1" "$((10#${up/./}))" "$last"
    builtin printf '%s\n' "$last" >&60
    ((${2:-0} == 0)) || builtin printf '%s\n' "$last" >/tmp/.swegym/armed
}

# $1 bytes of the channel become the command; $2 its time in hundredths of a second; $3 is 1 for a command that may
# kill the shell or the watchdog: the state is saved first, and the arming kept where a new watchdog finds it.
_swegym_begin() {
    _swegym_status=$?
    builtin trap _swegym_save EXIT
    LC_ALL=C builtin read -rN "$1" _swegym
    _swegym_arm "$2" "$3"
    if (($3)); then (_swegym_save) || :; fi
    _swegym_resume
}

# The next command sees the exit code of the one before in `$?`.
_swegym_resume() { [[ $- == *e* ]] || builtin return "$_swegym_status"; }

# The command does not parse, and the error has been shown: its status is 2.
_swegym_refuse() { _swegym='\builtin test . -eq 2>/dev/null'; }

# $1 exit code, $2 the command's secret.
_swegym_end() {
    local oom_kills=0 key value file IFS=$' \t\n'
    builtin printf 'D\n' >&60
    if [[ -s /tmp/.swegym/armed ]]; then : >/tmp/.swegym/armed; fi
    if (($1 == 137)); then
        for file in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
            [[ -r $file ]] || continue
            while builtin read -r key value; do
                [[ $key == oom_kill ]] && oom_kills=$value
            done <"$file"
            break
        done
    fi
    builtin printf '\036%s %d %d\036' "$2" "$1" "$oom_kills" >&61
    [[ $- == *e* ]] || builtin return "$1"
}

_swegym_settle() { builtin printf 'Y %s\n' "$1" >&60; }

# $1 length of the path, $2 bytes of content, $3 umask for a new file, $4 mode to set on a new file or "", $5 time,
# $6 a line that follows the content, $7 the secret. Path and content follow in the channel.
_swegym_write() {
    local path folder status=0 new= line=
    local - && builtin set +xv # a trace would go into the data
    builtin trap _swegym_save EXIT
    LC_ALL=C builtin read -rN "$1" path
    _swegym_arm "$5"
    folder=${path%/*}
    [[ $folder == "$path" || ! $folder || -d $folder ]] || builtin command -p mkdir -p -- "$folder" 2>&58 || status=$?
    [[ -e $path ]] || new=1
    if ((status == 0)); then
        (builtin umask "$3" && builtin command -p head -c "$2" >"$path") 2>&58 60>&- 61>&- || status=$?
    fi
    if ((status)); then # whatever of the content was not taken must not be read as commands
        until [[ $line == "$6" ]]; do LC_ALL=C IFS= builtin read -r line || builtin exit; done
    elif [[ $new && $4 ]]; then
        builtin command -p chmod "$4" -- "$path" 2>&58 || status=$?
    fi
    builtin printf 'D\n' >&60
    builtin printf '\036%s %d\036' "$7" "$status" >&58
}

# $1 length of the path, $2 time, $3 the secret. Status 2: no such file, 3: not a regular file.
_swegym_read() {
    local path status=0
    local - && builtin set +xv # a trace would go into the data
    builtin trap _swegym_save EXIT
    LC_ALL=C builtin read -rN "$1" path
    _swegym_arm "$2"
    if [[ ! -e $path ]]; then
        status=2
    elif [[ ! -f $path ]]; then
        status=3
    else
        (builtin command -p cat <"$path") >&58 2>&58 60>&- 61>&- || status=4
    fi
    builtin printf 'D\n' >&60
    builtin printf '\036%s %d\036' "$3" "$status" >&58
}

readonly -f _swegym_save _swegym_arm _swegym_begin _swegym_resume _swegym_refuse _swegym_end _swegym_settle
readonly -f _swegym_write _swegym_read
trap _swegym_save EXIT
