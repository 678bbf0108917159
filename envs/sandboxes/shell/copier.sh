# Evaluated in a subshell of the agent's shell while the sandbox is copied. It answers requests from the channel, each a
# line `SECRET WORDS...`: the words are run, their output goes to the data stream, and \036 SECRET STATUS \036 follows.
# An empty line ends it. Names begin with _swegym and commands with `builtin`, for what the agent defined is in force.

\builtin trap - EXIT ERR DEBUG RETURN
\builtin set +aefkuvxCT
\builtin shopt -u dotglob failglob nullglob nocaseglob nocasematch
IFS=$' \t\n'
LC_ALL=C
\builtin shopt -so pipefail
\builtin unset -f exec 2>/dev/null # with `builtin` before it, its redirections would not last
\exec >&38
_swegym_folder=/tmp/.swegym/copy
_swegym_stopped=()
_swegym_is_copy=

# Programs from the system's folders find nothing of the agent's environment.
while IFS= \builtin read -r _swegym_words; do \builtin declare +x "$_swegym_words"; done <<<"$(\builtin compgen -e)"
\builtin declare -x LC_ALL
_swegym_program() { \builtin command -p "$@" 38>&-; }

_swegym_hello() { :; }

# Stop every process but process 1, the agent's shell and this one, until a pass finds nothing that still runs.
_swegym_freeze() {
    \builtin local _swegym_entry _swegym_stat _swegym_running _swegym_passes=200
    while ((_swegym_passes-- > 0)); do
        _swegym_running=
        for _swegym_entry in /proc/[0-9]*; do
            _swegym_entry=${_swegym_entry#/proc/}
            ((_swegym_entry == 1 || _swegym_entry == $$ || _swegym_entry == BASHPID)) && \builtin continue
            _swegym_stat=
            { IFS= \builtin read -rd '' _swegym_stat <"/proc/$_swegym_entry/stat"; } 2>/dev/null
            _swegym_stat=${_swegym_stat##*) }
            [[ ! $_swegym_stat || $_swegym_stat == [TtZX]* ]] && \builtin continue
            \builtin kill -STOP "$_swegym_entry" 2>/dev/null || \builtin continue
            _swegym_running=1
            [[ " ${_swegym_stopped[*]} " == *" $_swegym_entry "* ]] || _swegym_stopped+=("$_swegym_entry")
        done
        [[ $_swegym_running ]] || \builtin return 0
        \builtin command -p sleep 0.002
    done
    \builtin return 1 # something waits for a device
}

_swegym_thaw() {
    ((${#_swegym_stopped[@]})) && \builtin kill -CONT "${_swegym_stopped[@]}" 2>/dev/null
    _swegym_stopped=()
}

# When process 1 began, in seconds since the epoch, less $1 milliseconds: nothing in here was changed before.
_swegym_since() {
    \builtin local _swegym_up _swegym_stat _swegym_now
    _swegym_now=${EPOCHREALTIME-} # since bash 5
    if [[ $_swegym_now ]]; then
        _swegym_now=${_swegym_now//[!0-9]/} && _swegym_now=${_swegym_now%???}
    else
        _swegym_now=$(_swegym_program date +%s%3N)
    fi
    \builtin read -r _swegym_up _ </proc/uptime || \builtin return
    IFS= \builtin read -rd '' _swegym_stat </proc/1/stat
    _swegym_now=$((_swegym_now - 10#${_swegym_up/./} * 10 - $1))
    \builtin set -- ${_swegym_stat##*) }
    _swegym_now=$((_swegym_now + ${20} * 10))
    \builtin printf -v _swegym_since %d.%03d $((_swegym_now / 1000)) $((_swegym_now % 1000))
}

# Whether every change of the root file system shows in a change time. Where a folder of a lower layer can be renamed
# as a whole, what is in it moves without a trace.
_swegym_is_traceable() {
    \builtin local _swegym_type _swegym_default= _swegym_options
    _swegym_default=$(</sys/module/overlay/parameters/redirect_dir) 2>/dev/null
    while \builtin read -r _ _swegym_point _swegym_type _swegym_options _; do
        [[ $_swegym_point == / ]] || \builtin continue
        [[ $_swegym_type == overlay && $_swegym_options != *redirect_dir=on* && $_swegym_options != *metacopy=on* ]] ||
            \builtin return 1
        [[ $_swegym_default == N || $_swegym_options == *redirect_dir=@(off|nofollow)* ]]
        \builtin return
    done </proc/mounts
    \builtin return 1
}

# $1: by how many milliseconds the clock was set forward since the sandbox began.
# Print, each ended by a NUL: the folders that changed, an empty name, and the entries of those folders as TYPE PATH.
# The paths of everything that changed stay in a file for `_swegym_send`. Mounts are left out, sockets as well.
_swegym_changes() {
    \builtin local _swegym_since _swegym_point
    _swegym_skip=()
    _swegym_is_traceable && _swegym_since $(($1 + 30)) || \builtin return
    while \builtin read -r _ _swegym_point _; do
        [[ $_swegym_point == / ]] || _swegym_skip+=(! -path "$_swegym_point")
    done </proc/mounts
    _swegym_program mkdir -p "$_swegym_folder" || \builtin return
    _swegym_program find / -xdev -path "$_swegym_folder" -prune -o -newerct "@$_swegym_since" "${_swegym_skip[@]}" \
        ! -type s \( ! -type d -o -fprint0 "$_swegym_folder/folders" \) -fprint0 "$_swegym_folder/paths" || \builtin return
    _swegym_program cat "$_swegym_folder/folders" && \builtin printf '\0' && _swegym_list | _swegym_program sort -z
}

# The entries of the changed folders that are here, each ended by a NUL.
_swegym_list() {
    \builtin local _swegym_path
    _swegym_some=()
    while IFS= \builtin read -rd '' _swegym_path; do
        [[ -d $_swegym_path && ! -L $_swegym_path ]] || \builtin continue
        _swegym_some+=("$_swegym_path")
        ((${#_swegym_some[@]} < 500)) || { _swegym_list_some && _swegym_some=(); } || \builtin return
    done <"$_swegym_folder/folders"
    ((${#_swegym_some[@]} == 0)) || _swegym_list_some
}

_swegym_list_some() {
    _swegym_program find "${_swegym_some[@]}" -mindepth 1 -maxdepth 1 ! -path "$_swegym_folder" -printf '%y%p\0'
}

# Remove the entries of changed folders that the origin does not have, or has as another type of file.
# $1, $2: bytes in the channel: names of folders, entries of the origin.
_swegym_prune() {
    _swegym_program mkdir -p "$_swegym_folder" || \builtin return
    _swegym_program head -c "$1" >"$_swegym_folder/folders"
    _swegym_program head -c "$2" >"$_swegym_folder/entries"
    _swegym_list | _swegym_program sort -z | _swegym_program comm -z23 - "$_swegym_folder/entries" |
        _swegym_program cut -zc2- | _swegym_program xargs -0r rm -rf --
}

# Begin to archive what `_swegym_changes` found; `_swegym_pull BYTES` prints the next part of it.
_swegym_send() {
    \exec 33< <(
        _swegym_program tar --create --file=- --directory=/ --null --no-recursion --files-from="$_swegym_folder/paths" \
            --format=posix --pax-option=delete=atime,delete=ctime --sparse --numeric-owner \
            --xattrs --xattrs-include='user.*' </dev/null 2>/dev/null
    )
    _swegym_process=$!
}

_swegym_pull() { _swegym_program head -c "$1" <&33; }

# Begin to unpack; `_swegym_push BYTES` takes the next part from the channel.
_swegym_receive() {
    _swegym_is_copy=1
    \exec 33> >(
        _swegym_program tar --extract --file=- --directory=/ --same-permissions --same-owner --numeric-owner \
            --delay-directory-restore --xattrs --xattrs-include='user.*' >/dev/null 2>&1
    )
    _swegym_process=$!
}

_swegym_push() { _swegym_program head -c "$1" >&33; }

# End what `_swegym_send` or `_swegym_receive` began. Status 0: all of it went well.
_swegym_finish() {
    \exec 33<&-
    \builtin wait "$_swegym_process"
    _swegym_status=$?
    _swegym_program rm -rf "$_swegym_folder" && \builtin return "$_swegym_status"
}

while IFS=' ' \builtin read -r _swegym_secret _swegym_words && [[ $_swegym_secret ]]; do
    \builtin eval "$_swegym_words"
    \builtin printf '\036%s %d\036' "$_swegym_secret" "$?"
done
_swegym_thaw
# What describes the shell at this moment is of no use to the next one here, only to that of a copy.
[[ $_swegym_is_copy ]] || : >|"$_swegym_saved.live"
