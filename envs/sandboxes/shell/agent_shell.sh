# Sourced by the agent's shell when it starts. That shell is a plain non-interactive bash whose script is the channel
# (stdin), so every command is evaluated at top level, where `break`, `return` and `declare` act as anywhere else.
# The host sends, per command,
#   \_swegym_begin LENGTH TIMEOUT FLAGS $?;\builtin eval -- "$_swegym" </dev/null >&31 2>&31 38>&- 30>&- 31>&-
#   (LENGTH bytes of the command)\_swegym_end "$?" NONCE
# (the backslashes keep aliases out). The shell's own stdout and stderr are /dev/null (`set -x` traces our lines there);
# 31 is the channel out, 30 the watchdog's pipe and 38 the data stream. A redirection of `eval` is undone after it,
# whatever `exec` did inside.
#
# An agent may define, disable, alias and lock what it likes. So these functions use keywords and `builtin`, assign to
# _swegym variables only, split no words (IFS), and are made readonly. Where a lock (`readonly`, `declare -i`) is in
# their way they end the shell before they take anything from the channel: the host sends the command again, and the
# next shell has the state without the lock.

unset BASH_ENV
exec 35<&-
declare +x _swegym_saved _swegym_generation _swegym_loaded

# Is this a file, or can it become one? A fifo in our folder would make us wait.
_swegym_is_file() { [[ -f $1 || ! -e $1 ]]; }

# Write what makes this shell: options of shopt, umask, working directory, variables, functions, aliases. Functions
# come late, for they may have the names of builtins. With `live` and the positional parameters also, for a fork, what
# a shell that ended does not pass on to the next one.
_swegym_save() {
    if [[ ${1-} == live ]]; then
        builtin shift
        _swegym_save_live "$@" >|"$_swegym_saved.live"
    elif [[ -s $_swegym_saved.live ]]; then
        >|"$_swegym_saved.live"
    fi
    builtin set +eufC
    [[ -d /tmp/.swegym ]] || (_swegym_mkdir -p /tmp/.swegym)
    _swegym_is_file "$_swegym_saved" || builtin return
    builtin local _swegym_name
    builtin local -a _swegym_all _swegym_names
    builtin compgen -v >|"$_swegym_saved"
    builtin mapfile -t _swegym_all <"$_swegym_saved"
    for _swegym_name in "${_swegym_all[@]}"; do
        [[ $_swegym_name == _swegym* || ($_swegym_name == FUNCNEST && $FUNCNEST == [1-8]) ||
            ($_swegym_name == LC_ALL && ${LC_ALL@a} == *[!x]*) ]] || _swegym_names+=("$_swegym_name")
    done
    {
        builtin shopt -p
        [[ -o pipefail ]] && builtin printf 'set -o pipefail\n'
        builtin umask -p
        builtin printf 'cd -- %q\n' "$PWD" # before OLDPWD, a variable
        builtin declare -p -- "${_swegym_names[@]}"
        builtin declare -f
        builtin alias -p
        builtin printf '\n# complete %d\n' "$_swegym_generation"
    } >|"$_swegym_saved"
}

# Positional parameters, variables that are not in the environment any more, attributes of functions, options, traps.
_swegym_save_live() {
    builtin printf 'set --'
    (($# == 0)) || builtin printf ' %q' "$@"
    builtin printf '\nwhile builtin read -r _swegym; do [[ %q == *" $_swegym "* ]] || builtin unset -v "$_swegym"; done' \
        " $(IFS=$'\n' && builtin set -f && builtin printf '%s ' $(builtin compgen -e))"
    builtin printf ' <<<"$(builtin compgen -e)"\n'
    builtin declare -F
    builtin set +o
    builtin trap -p
}

# Make `builtin` and what we use with it work again. While POSIXLY_CORRECT is set no function hides `unset`.
_swegym_mend() {
    POSIXLY_CORRECT=
    \unset -f builtin enable
    \unset -v POSIXLY_CORRECT
    \enable builtin alias compgen declare eval exec exit local mapfile printf read return set shift shopt trap
    \enable ulimit umask
}

# Does `builtin` do what it should?
_swegym_check() {
    \builtin set -- intact
    [[ ${1-} ]] || _swegym_mend
}

# Processes that the kernel killed for want of memory, where it can be read in here.
_swegym_read_kills() { builtin return 0; }
for _swegym in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
    [[ -r $_swegym ]] || continue
    eval "_swegym_read_kills() {
        builtin read -rN 4096 _swegym_kills <$_swegym || builtin :
        _swegym_kills=\${_swegym_kills##*oom_kill } _swegym_kills=\${_swegym_kills%%\$'\\n'*}
    }"
    break
done

# $1: time in hundredths of a second. $2: 1 to keep the arming where a new watchdog finds it.
_swegym_arm() {
    builtin local _swegym_up _swegym_last
    builtin read -rN 99 _swegym_up </proc/uptime || builtin :
    builtin read -rN 99 _swegym_last </proc/loadavg || builtin :
    _swegym_up=${_swegym_up%% *} _swegym_last=${_swegym_last%$'\n'}
    builtin printf -v _swegym_last 'A %d %d %d %d' "$$" "$1" "$((10#${_swegym_up/./}))" "${_swegym_last##* }"
    builtin printf '%s\n' "$_swegym_last" >&30
    if (($2)) && _swegym_is_file /tmp/.swegym/armed; then
        builtin printf '%s\n' "$_swegym_last" >|/tmp/.swegym/armed
    fi
}

# $1 bytes of the channel become the command; $2 its time in hundredths of a second. $3: 1 for a command that may kill
# the shell or the watchdog, so that the state is saved first, and the arming kept where a new watchdog finds it; plus 2
# when a byte need not be a character (setting the locale takes as long as a command). $4: exit code of the one before.
_swegym_begin() {
    if [[ ${_swegym+${_swegym@a}}${_swegym_status+${_swegym_status@a}}${LC_ALL+${LC_ALL@a}} == *[!x]* ||
        ${FUNCNEST-} == [1-8] ]]; then builtin exit "$4"; fi
    _swegym_status=$4
    builtin trap _swegym_save EXIT
    if (($3 & 2)); then
        LC_ALL=C builtin read -rN "$1" _swegym || { _swegym_mend && LC_ALL=C builtin read -rN "$1" _swegym; }
    else
        builtin read -rN "$1" _swegym || { _swegym_mend && builtin read -rN "$1" _swegym; }
    fi
    _swegym_arm "$2" "$(($3 & 1))"
    if (($3 & 1)); then (_swegym_save) || builtin :; fi
    [[ $- == *e* ]] || builtin return "$4"
}

# The next command sees the exit code of the one before in `$?`.
_swegym_resume() { [[ $- == *e* ]] || builtin return "$_swegym_status"; }

# The command does not parse, and the error has been shown: its status is 2.
_swegym_refuse() { _swegym='\builtin test . -eq 2>/dev/null'; }

# $1 exit code, $2 the command's secret.
_swegym_end() {
    \builtin set -- "$@" intact
    [[ ${3-} ]] || _swegym_mend
    builtin local _swegym_kills=0
    if (($1)); then _swegym_read_kills; fi
    builtin printf '\036%s %d %d\036' "$2" "$1" "$_swegym_kills" >&31 ||
        { _swegym_mend && builtin printf '\036%s %d %d\036' "$2" "$1" "$_swegym_kills" >&31; }
    builtin printf 'D\n' >&30
    if [[ -s /tmp/.swegym/armed ]]; then >|/tmp/.swegym/armed; fi
    [[ $- == *e* ]] || builtin return "$1"
}

_swegym_settle() { builtin printf 'Y %s\n' "$1" >&30; }

_swegym_quit() { builtin exit 0; }

# 5, when this shell has other limits than it began with and a fresh one may succeed, else $1.
_swegym_failed() {
    _swegym_code=$1
    [[ ! -f /tmp/.swegym/limits || $(builtin ulimit -a) == "$(</tmp/.swegym/limits)" ]] || _swegym_code=5
}

# $1 length of the path, $2 bytes of content, $3 umask for a new file, $4 mode to set on a new file or "", $5 time,
# $6 a line that follows the content, $7 the secret. Path and content follow in the channel. Status 5: see above.
_swegym_write() {
    if [[ ${LC_ALL+${LC_ALL@a}} == *[!x]* || ${FUNCNEST-} == [1-8] || $- == *r* ]]; then builtin exit; fi
    builtin local - _swegym_path= _swegym_new= _swegym_line= _swegym_code=0
    builtin set +aefkuvxCET
    builtin trap _swegym_save EXIT
    LC_ALL=C builtin read -rN "$1" _swegym_path
    _swegym_arm "$5" 0
    _swegym_line=${_swegym_path%/*}
    if [[ $_swegym_line != "$_swegym_path" && $_swegym_line && ! -d $_swegym_line ]]; then
        (builtin umask 022 && _swegym_mkdir -p -- "$_swegym_line" 2>&38 38>&- 30>&- 31>&-) || _swegym_failed 4
    fi
    [[ -e $_swegym_path ]] || _swegym_new=1
    if ((_swegym_code == 0)); then
        (builtin umask "$3" && _swegym_head -c "$2" 2>&38 >|"$_swegym_path" 38>&- 30>&- 31>&-) || _swegym_failed 4
    fi
    if ((_swegym_code)); then # whatever of the content was not taken must not be read as commands
        until [[ $_swegym_line == "$6" ]]; do LC_ALL=C IFS= builtin read -r _swegym_line || builtin exit; done
    elif [[ $_swegym_new && $4 ]]; then
        (_swegym_chmod "$4" -- "$_swegym_path" 2>&38 38>&- 30>&- 31>&-) || _swegym_failed 4
    fi
    builtin printf 'D\n' >&30
    builtin printf '\036%s %d\036' "$7" "$_swegym_code" >&38
}

# $1 length of the path, $2 time, $3 the most bytes, $4 the secret. Status 2: no such file, 3: not a regular file.
_swegym_read() {
    if [[ ${LC_ALL+${LC_ALL@a}} == *[!x]* || ${FUNCNEST-} == [1-8] || $- == *r* ]]; then builtin exit; fi
    builtin local - _swegym_path= _swegym_code=0
    builtin set +aefkuvxCET
    builtin trap _swegym_save EXIT
    LC_ALL=C builtin read -rN "$1" _swegym_path
    _swegym_arm "$2" 0
    if [[ ! -e $_swegym_path ]]; then
        _swegym_code=2
    elif [[ ! -f $_swegym_path ]]; then
        _swegym_code=3
    else
        (_swegym_head -c "$3" 2>&38 >&38 <"$_swegym_path" 38>&- 30>&- 31>&-) || _swegym_failed 4
    fi
    builtin printf 'D\n' >&30
    builtin printf '\036%s %d\036' "$4" "$_swegym_code" >&38
}

readonly -f _swegym_is_file _swegym_save _swegym_save_live _swegym_mend _swegym_check _swegym_read_kills _swegym_arm
readonly -f _swegym_begin _swegym_resume _swegym_refuse _swegym_end _swegym_settle _swegym_quit _swegym_failed
readonly -f _swegym_write _swegym_read _swegym_head _swegym_mkdir _swegym_chmod
trap _swegym_save EXIT
if [[ $_swegym_loaded ]]; then . "$_swegym_loaded"; fi
_swegym_check
if [[ $_swegym_loaded && -s $_swegym_loaded.live ]]; then
    _swegym_live=$(<"$_swegym_loaded.live") && >|"$_swegym_loaded.live"
    builtin eval "unset -v _swegym_live;$_swegym_live"
fi
if [[ -s /tmp/.swegym/cwd ]]; then builtin cd -- "$(</tmp/.swegym/cwd)" && >|/tmp/.swegym/cwd; fi
builtin printf 'S\n' >&30
