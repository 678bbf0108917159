# Process 1 of a sandbox. The host sends this text over the channel (stdin) with these variables set before it:
#   session       secret; marks every message of this process, and is never given to the agent's shell
#   shell_start   text that the agent's shell sources first (agent_shell.sh)
#   data_kib, num_processes, file_kib    ulimits, empty for none
#
# It keeps two children alive, the agent's shell and the watchdog. Being process 1 of its pid namespace, it cannot be
# killed from inside, so not even `kill -9 -1` ends the sandbox. When the shell ends, it says so
# (X), throws away what is left in the channel up to the host's `sync` line, and starts a new shell, which restores
# the state that the old one saved. Only bash builtins, mkdir and readlink are used.
#
# File descriptors: 54 the watchdog's answers, 56 a pipe that never has data, 57 channel in, 58 data out (file
# contents), 59/60 messages to the watchdog, 61 channel out.
# Messages to the host are \036 session WORD ... \036 with WORD R (ready), X (shell ended), Y (settled).

set -m # a background child then keeps its default signals, and its stdin
umask 022
exec 57<&0 58>&2 61>&1 </dev/null >/dev/null 2>/dev/null
exec 59<> <(:) # our own pipe, held open here: no writer ever meets a closed one
exec 54<> <(:)
exec 56<> <(:) # `read -t` on it is a sleep without a process
ulimit -c 0
[[ $data_kib ]] && ulimit -d "$data_kib"
[[ $num_processes ]] && ulimit -u "$num_processes"
[[ $file_kib ]] && ulimit -f "$file_kib"
folder=/tmp/.swegym
mkdir -p "$folder"

# Clock of /proc/PID/stat's start times: hundredths of a second since boot.
read_clock() {
    local up rest
    read -r up rest </proc/uptime
    now=$((10#${up/./}))
}

# Number of processes that the kernel killed for want of memory, 0 where it cannot be read.
read_oom_kills() {
    local key value file
    oom_kills=0
    for file in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
        [[ -r $file ]] || continue
        while read -r key value; do
            [[ $key == oom_kill ]] && oom_kills=$value
        done <"$file"
        return
    done
}

# --- watchdog -------------------------------------------------------------------------------------------------------

# Is the process of folder $1 younger than the armed command? Sets `state`. A process that shares its start tick with
# the arming is younger when its id is above the last one given out before.
is_younger() {
    local stat=
    IFS= read -rd '' stat <"$1/stat"
    set -- ${stat##*) }
    state=$1
    [[ $state && $state != [ZX] ]] || return
    ((${20} > armed_at || (${20} == armed_at && pid > last_pid)))
}

# Send signal $1 to everything younger than the command until a pass finds nothing more to do; at most $2 passes.
signal_younger() {
    local signal=$1 passes=$2 entry found
    while ((passes-- > 0)); do
        found=
        for entry in /proc/[0-9]*; do
            pid=${entry#/proc/}
            ((pid == 1 || pid == BASHPID || pid == shell)) && continue
            is_younger "$entry" || continue
            [[ $signal == STOP && $state == T ]] && continue
            kill -s "$signal" "$pid" && found=1
        done
        [[ $found ]] || return 0
        read -rt 0.003 -u 56
    done
}

# Stopping comes before killing: a stopped process still counts against the process limit, so a fork bomb runs dry.
kill_younger() {
    signal_younger STOP 100
    signal_younger KILL 200
}

expire() {
    kill -STOP "$shell"
    timed_out=1
    kill_younger
    kill -USR1 "$shell" # no trap of ours: bash runs its EXIT trap, which saves the state, and dies
    kill -CONT "$shell"
    local tries=100
    while ((tries-- > 0)) && kill -0 "$shell"; do
        read -rt 0.01 -u 56
    done
    if kill -0 "$shell"; then
        readlink "/proc/$shell/cwd" >"$folder/cwd"
        kill -KILL "$shell"
    fi
    kill_younger # what an EXIT trap of the agent's own started meanwhile
}

# Messages: "A shell_pid timeout armed_at last_pid" (arm), "D" (disarm), "Y token" (settle), "Q" (the shell has ended:
# answer whether it timed out, and whether a command was armed).
watch() {
    local message=$1 more wait=never deadline=0 armed=0 armed_at=0 last_pid=0 shell= timed_out=0
    while :; do
        if [[ $message ]]; then
            : # the message to begin with
        elif [[ $wait == never ]]; then
            IFS= read -ru 59 message
        else
            read_clock
            wait=$((deadline > now ? deadline - now : 0))
            printf -v wait '%d.%02d' $((wait / 100)) $((wait % 100))
            if [[ $wait == 0.00 ]]; then
                read -rt 0 -u 59 && IFS= read -ru 59 message
            elif ! IFS= read -rt "$wait" -u 59 message && [[ $message ]]; then
                IFS= read -ru 59 more # the time ended in the middle of a line
                message+=$more
            fi
        fi
        set -- $message
        case $1 in
            A) shell=$2 armed_at=$4 last_pid=$5 deadline=$(($4 + $3 + 2)) wait= armed=1 timed_out=0 ;;
            D) wait=never armed=0 ;;
            Q) printf '%d %d\n' "$timed_out" "$armed" >&54 && wait=never armed=0 timed_out=0 ;;
            Y) printf '\036%s Y %s\036' "$session" "$2" >&61 ;;
            '') if [[ $wait == 0.00 ]]; then wait=never && expire; fi ;;
        esac
        message=
    done
}

# --- life of the shell ----------------------------------------------------------------------------------------------

# $1: a message that the watchdog begins with, or "".
start_watchdog() {
    watch "$1" 57<&- 58>&- &
    watchdog=$!
}

# Forget what a watchdog that was killed left unread or half said. Only when no shell is there to write.
drain_messages() {
    local stale
    while read -rt 0 -u 59; do IFS= read -rt 0.1 -u 59 stale; done
    while read -rt 0 -u 54; do IFS= read -rt 0.1 -u 54 stale; done
}

# Sets `loaded` and `saved` to the files that the next shell reads its state from and writes it to: the latest that was
# written to its end, and the other. They are numbered, since the times of files do not survive a commit exactly.
choose_state() {
    local file text number
    loaded= saved=$folder/state.0 generation=0
    for file in "$folder/state.0" "$folder/state.1"; do
        text=
        [[ -r $file ]] && IFS= read -rd '' text <"$file"
        number=${text##*$'\n# complete '}
        [[ $number == [0-9]*$'\n' ]] || continue
        number=${number%$'\n'}
        ((number > generation)) && loaded=$file generation=$number
    done
    ((generation++))
    [[ $loaded == "$saved" ]] && saved=$folder/state.1
}

start_shell() {
    choose_state
    BASH_ENV=/dev/fd/55 _swegym_loaded=$loaded _swegym_saved=$saved _swegym_generation=$generation \
        bash --norc --noprofile <&57 54>&- 56>&- 57<&- 60>&59 59>&- 55<<<"$shell_start" &
    shell=$!
}

# Everything in the channel up to this line was meant for the shell that is gone.
resynchronise() {
    local line=
    until [[ $line == "sync $session" ]]; do
        IFS= read -ru 57 line || exit 0 # the host has gone
    done
}

# Whether the shell that ended had timed out, and whether a command had begun. A watchdog that dies while it is asked
# was killed by a command.
ask_watchdog() {
    printf 'Q\n' >&59
    while kill -0 "$watchdog"; do
        read -rt 5 -u 54 timed_out armed && return
    done
    timed_out=0 armed=1
}

start_watchdog ''
start_shell
printf '\036%s R\036' "$session" >&61
while :; do
    wait -nf
    if kill -0 "$shell"; then
        # `kill -9 -1` in the shell spares the shell and us: the watchdog goes on with the command that did it.
        if ! kill -0 "$watchdog"; then
            message=
            [[ -r $folder/armed ]] && read -r message <"$folder/armed"
            start_watchdog "$message"
        fi
        continue
    fi
    wait "$shell"
    status=$?
    ask_watchdog
    if ! kill -0 "$watchdog"; then
        drain_messages
        start_watchdog ''
    fi
    read_oom_kills
    printf '\036%s X %d %d %d %d\036' "$session" "$status" "$timed_out" "$armed" "$oom_kills" >&61
    resynchronise
    start_shell
done
