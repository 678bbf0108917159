# Process 1 of a sandbox. The host sends this text over the channel (stdin) with these variables set before it:
#   session       secret; marks every message of this process, and is never given to the agent's shell
#   shell_start   text that the agent's shell sources first (agent_shell.sh)
#   inspection    functions of the third child (inspector.sh)
#   data_kib, num_processes, file_kib    ulimits, empty for none
#   disk_kib, writable                   limit of what commands may write, and the folders where they can, a line each
#
# It keeps three children alive: the agent's shell, the watchdog and the inspector. Being process 1 of its pid
# namespace, it cannot be killed from inside, so not even `kill -9 -1` ends the sandbox. When the shell ends, it says so
# (X), throws away what is left in the channel up to the host's `sync` line, and starts a new shell, which restores
# the state that the old one saved.
#
# File descriptors: 33 requests to the inspector, 34 the watchdog's answers, 36 the watchdog's bell, 37 channel in,
# 38 data out (file contents), 39/30 messages to the watchdog, 31 channel out. Below 40, for an agent may lower its
# limit, and below 60, from where bash takes those of `coproc` and `<()`.
# Messages to the host are \036 session WORD ... \036 with WORD R (ready), X (shell ended), Y (settled), K (number of
# processes that were killed for want of memory so far).

set -m # a background child then keeps its default signals, and its stdin
umask 022
exec 37<&0 38>&2 31>&1 </dev/null >/dev/null 2>/dev/null

refuse() {
    printf '%s\n' "$1" >&38
    exit 1
}
((BASH_VERSINFO[0] >= 5)) || refuse "the image has bash $BASH_VERSION, and version 5.0 or newer is needed"
missing=
for program in chmod head mkdir readlink stat; do hash "$program" || missing+=" $program"; done
[[ ! $missing ]] || refuse "the image lacks$missing (package coreutils) in PATH=$PATH"
hash find || hash du || refuse "the image lacks find (package findutils) in PATH=$PATH"

exec 39<> <(:) # our own pipe, held open here: no writer ever meets a closed one
exec 33<> <(:)
exec 34<> <(:)
exec 36<> <(:) # nearly always empty: `read -t` on it is a sleep without a process
ulimit -c 0
[[ $data_kib ]] && ulimit -d "$data_kib"
[[ $num_processes ]] && ulimit -u "$num_processes"
[[ $file_kib ]] && ulimit -f "$file_kib"
folder=/tmp/.swegym

# Programs that the agent's shell runs for us: by their paths, and with nothing of the agent's environment.
for program in chmod head mkdir; do
    printf -v program '_swegym_%s() { builtin exec -c %q "$@"; }\n' "$program" "${BASH_CMDS[$program]}"
    shell_start=$program$shell_start
done

# Is this a file, or can it become one? What an agent puts in our folder must not make us wait.
is_file() { [[ -f $1 || ! -e $1 ]]; }

# Clock of /proc/PID/stat's start times: hundredths of a second since boot.
read_clock() {
    local up rest
    read -r up rest </proc/uptime
    now=$((10#${up/./}))
}

# Number of processes that the kernel killed for want of memory, 0 where it cannot be read.
oom_file=
for file in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
    [[ -r $file && ! $oom_file ]] && oom_file=$file
done
read_oom_kills() {
    local key value
    oom_kills=0
    [[ $oom_file ]] || return
    while read -r key value; do
        [[ $key == oom_kill ]] && oom_kills=$value
    done <"$oom_file"
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
        read -rt 0.003 -u 36
    done
}

# Stopping comes before killing: a stopped process still counts against the process limit, so a fork bomb runs dry.
kill_younger() {
    signal_younger STOP 100
    signal_younger KILL 200
}

# $1: why, 1 the time limit, 2 the disk.
expire() {
    kill -STOP "$shell"
    reason=$1 running=0
    kill_younger
    kill -USR1 "$shell" # no trap of ours: bash runs its EXIT trap, which saves the state, and dies
    kill -CONT "$shell"
    local tries=100
    while ((tries-- > 0)) && kill -0 "$shell"; do
        read -rt 0.01 -u 36
    done
    if kill -0 "$shell"; then
        if is_file "$folder/cwd"; then readlink "/proc/$shell/cwd" >"$folder/cwd"; fi
        kill -KILL "$shell"
    fi
    kill_younger # what an EXIT trap of the agent's own started meanwhile
}

# Messages: "A shell_pid timeout armed_at last_pid" (arm), "D" (disarm), "S" (a new shell has loaded its state),
# "Q" (the shell has ended: answer why, whether a command was armed, whether the shell had loaded its state),
# "Y token" (settle), "E shell_pid" (the host got no answer: end the command or the shell), "U kib is_exact" (the
# inspector answers).
handle() {
    case ${1-} in
        A)
            ((running)) || woken_at=$4
            shell=$2 armed_at=$4 last_pid=$5 deadline=$(($4 + $3 + 2)) armed=1 running=1 reason=0
            ((is_unsure)) || allowed=$used
            [[ $began_at ]] || began_at=$EPOCHREALTIME
            ;;
        D) armed=0 running=0 has_ended=1 ;;
        S) has_loaded=1 ;;
        Q) printf '%d %d %d\n' "$reason" "$armed" "$has_loaded" >&34 && armed=0 running=0 reason=0 has_loaded=0 ;;
        E)
            shell=$2
            # What came just before tells of a shell that lives, and of a watchdog that was stopped.
            if ((armed)); then expire 1; elif ((!num_handled)); then kill -KILL "$shell" && reason=1; fi
            ;;
        Y) printf '\036%s Y %s\036' "$session" "$2" >&31 ;;
        U)
            is_asked=0
            if ((${3-0})); then judge_disk "$2"; fi
            ;;
    esac
}

# $1: KiB that commands have written and that are there now. Over the limit, a command that makes it more is ended; one
# that frees room or only reads is not. The first look after such an end only learns where things stand.
judge_disk() {
    used=$1
    if ((is_unsure || !running)); then
        allowed=$used is_unsure=0
    elif ((used > disk_kib && used > allowed + disk_kib / 16)); then
        expire 2
        is_unsure=1
    fi
}

# A command that failed has reported the number with its end; of those that succeeded nobody has looked.
report_oom_kills() {
    has_ended=0
    read_oom_kills
    ((oom_kills == known_kills)) || printf '\036%s K %d\036' "$session" "$oom_kills" >&31
    known_kills=$oom_kills
}

# While a command runs the watchdog sleeps and looks now and then; messages wait in the pipe meanwhile, so that a
# command does not wake it twice. While none runs it waits for a message, and costs nothing.
# $1: a message to begin with, or "". $2: the time of the first command, or "".
watch() {
    local message pause now shell= armed=0 running=0 armed_at=0 deadline=0 last_pid=0 reason=0 has_loaded=1
    local began_at=${2/,/.} num_handled=0
    local used=0 allowed=0 is_unsure=0 is_asked=0 busy=0 woken_at=0 has_ended=0 oom_kills known_kills=0
    handle $1
    while :; do
        if ((running)); then
            read_clock
            pause=$((now - armed_at < 200 ? 10 : 25))
            ((deadline - now < pause)) && pause=$((deadline > now ? deadline - now : 1))
            printf -v pause '0.%02d' "$pause"
            read -rt "$pause" -u 36
            read_clock
            ((busy += now - woken_at, woken_at = now))
            num_handled=0
            while read -rt 0 -u 39; do
                IFS= read -ru 39 message && handle $message
                ((num_handled++))
            done
            ((running && now >= deadline)) && expire 1
            ((has_ended)) && report_oom_kills
            # A look is due after each second in which commands ran.
            if ((disk_kib && busy >= 100 && (!is_asked || busy >= 3000))); then
                busy=0 is_asked=1
                printf 'L %d %s\n' "$((is_unsure || used > disk_kib))" "$began_at" >&33
            fi
        else
            num_handled=0
            IFS= read -ru 39 message && handle $message
        fi
    done
}

# --- life of the children -------------------------------------------------------------------------------------------

start_watchdog() {
    watch "$1" "$2" 37<&- 38>&- &
    watchdog=$!
}

# $1: 1 when what was written so far is unknown.
start_inspector() {
    inspector=
    [[ $disk_kib ]] || return
    inspect "$1" 34>&- 36>&- 37<&- 38>&- 31>&- &
    inspector=$!
}

# Forget what a watchdog that was killed left unread or half said. Only when no shell is there to write.
drain_messages() {
    local stale
    while read -rt 0 -u 39; do IFS= read -rt 0.1 -u 39 stale; done
    while read -rt 0 -u 34; do IFS= read -rt 0.1 -u 34 stale; done
}

# Sets `loaded` and `saved` to the files that the next shell reads its state from and writes it to: the latest that was
# written to its end, and the other. They are numbered, since the times of files do not survive a commit exactly.
# $1: 0 for a shell without the state, because the one before ended while it loaded it.
choose_state() {
    local file text number
    loaded= saved=$folder/state.0 generation=0
    for file in "$folder/state.0" "$folder/state.1"; do
        text=
        [[ -f $file && -r $file ]] && IFS= read -rd '' text <"$file"
        number=${text##*$'\n# complete '}
        [[ $number == [0-9]*$'\n' ]] || continue
        number=${number%$'\n'}
        ((number > generation)) && loaded=$file generation=$number
    done
    ((generation++))
    [[ $loaded == "$saved" ]] && saved=$folder/state.1
    (($1)) || loaded=
}

# The shell, and what it starts, goes first when memory runs out.
start_shell() {
    choose_state "$1"
    if [[ ! -e $folder/limits ]]; then
        mkdir -p "$folder"
        ulimit -a >"$folder/limits"
    fi
    {
        printf '500\n' >/proc/self/oom_score_adj
        BASH_ENV=/dev/fd/35 _swegym_loaded=$loaded _swegym_saved=$saved _swegym_generation=$generation \
            exec bash --norc --noprofile <&37 33>&- 34>&- 36>&- 37<&- 30>&39 39>&- 35<<<"$shell_start"
    } &
    shell=$!
}

# Everything in the channel up to this line was meant for the shell that is gone.
resynchronise() {
    local line=
    until [[ $line == "sync $session" ]]; do
        IFS= read -ru 37 line || exit 0 # the host has gone
    done
}

# Why the shell ended, whether a command had begun, and whether the shell had loaded its state. A watchdog that dies
# while it is asked was killed by a command.
ask_watchdog() {
    printf 'Q\n' >&39
    printf '\n' >&36
    while kill -0 "$watchdog"; do
        read -rt 5 -u 34 reason armed has_loaded && return
    done
    reason=0 armed=1 has_loaded=1
}

# The host asks us with this signal when it got no answer in time. Whatever was stopped goes on; the watchdog acts.
interrupt() {
    printf 'E %d\n' "$shell" >&39
    printf '\n' >&36
    kill -CONT "$shell" "$watchdog" # in this order: the watchdog may be about to stop the shell
}

# An agent that stops every process stops ours as well, and `wait` then returns at once, again and again. The watchdog
# stops the shell now and then, but never itself.
resume_stopped() {
    local stat=
    IFS= read -rd '' stat <"/proc/$watchdog/stat"
    set -- ${stat##*) }
    [[ ${1-} == T ]] && kill -CONT "$shell" $inspector "$watchdog"
}

eval "$inspection"
booted_at=$EPOCHREALTIME # the first command comes later: what a fork brings along in between does not count
start_watchdog '' ''
start_inspector 0
start_shell 1
trap interrupt USR2
printf '\036%s R\036' "$session" >&31
while :; do
    wait -nf
    if [[ $inspector ]] && ! kill -0 "$inspector"; then
        start_inspector 1
        printf 'U 0 0\n' >&39
    fi
    if kill -0 "$shell"; then
        # `kill -9 -1` in the shell spares the shell and us: the watchdog goes on with the command that did it.
        if ! kill -0 "$watchdog"; then
            message=
            [[ -f $folder/armed && -r $folder/armed ]] && read -r message <"$folder/armed"
            start_watchdog "$message" "$booted_at"
        fi
        resume_stopped
        continue
    fi
    wait "$shell"
    status=$?
    ask_watchdog
    if ! kill -0 "$watchdog"; then
        drain_messages
        start_watchdog '' "$booted_at"
    fi
    read_oom_kills
    printf '\036%s X %d %d %d %d\036' "$session" "$status" "$reason" "$armed" "$oom_kills" >&31
    resynchronise
    start_shell "$has_loaded"
done
