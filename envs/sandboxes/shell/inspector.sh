# Functions of the inspector, a child of the supervisor that measures the disk when the watchdog asks: starting a
# program may take long when processes have run out, and the watchdog must never wait. A look costs one `stat`. Only
# when the free room of the file system shrank by an eighth of the limit is there a count: of the blocks of everything
# whose change time is after the first command, and of deleted files that are still open. Others fill the file system as
# well, or empty it, which hides what is written here: so every tenth look counts in any case.

# Free KiB of each writable folder's file system in `free`; a free inode counts as half a KiB.
read_free() {
    local lines line
    free=()
    mapfile -t lines < <(stat -f -c '%f %S %d' -- "${roots[@]}")
    for line in "${lines[@]}"; do
        set -- $line
        free+=("$(($1 * $2 / 1024 + $3 / 2))")
    done
}

# Add to `dropped` what the free room shrank by since the last time: at most once, for folders of one file system.
add_drop() {
    local i most=0 before=("${free[@]}")
    read_free
    for ((i = 0; i < ${#free[@]} && i < ${#before[@]}; i++)); do
        ((before[i] - free[i] > most)) && most=$((before[i] - free[i]))
    done
    ((dropped += most))
}

# Sets `used`. Every entry counts half a KiB beside its blocks, and a file with n links an nth at each of them.
count_blocks() {
    local sum
    if [[ ! ${BASH_CMDS[find]-} ]]; then
        used=$(($(sum_du) - before_kib))
        return
    fi
    sum=$(find "${roots[@]}" -xdev -newerct "@$started" -printf '(%b+1)/%n+')
    used=$(((${sum}0) / 2))
    add_open_files
}

add_open_files() {
    local links key blocks
    declare -A seen
    mapfile -t links < <(find /proc/[0-9]*/fd -maxdepth 1 -lname '/* (deleted)' ! -lname '/memfd:*' ! -lname '/dev/*')
    ((${#links[@]})) || return
    while read -r key blocks; do
        [[ ${seen[$key]-} ]] || ((used += blocks / 2))
        seen[$key]=1
    done < <(stat -Lc '%d:%i %b' -- "${links[@]}")
}

# KiB of everything in the writable folders, for an image without find.
sum_du() {
    local lines
    mapfile -t lines < <(du -skxc -- "${roots[@]}")
    printf '%d\n' "${lines[-1]%%[!0-9]*}"
}

# $1: 1 when it is unknown what was written so far. Each request, "L is_wanted started", is answered with
# "U kib is_exact": the last count, made now if it is wanted or if it may have become much.
inspect() {
    local is_due=$1 is_wanted roots free used=0 dropped=0 is_exact started before_kib=0 now began=0 took=0 looks=0
    mapfile -t roots <<<"$writable"
    read_free
    [[ ${BASH_CMDS[find]-} ]] || before_kib=$(sum_du)
    while read -ru 33 _ is_wanted started; do
        add_drop
        read_clock
        is_exact=0
        ((looks++))
        if (((is_due || is_wanted || dropped * 8 >= disk_kib) && now >= began + 4 * took ||
            looks >= 10 && now >= began + 100 * took)); then
            began=$now
            count_blocks
            read_clock
            is_exact=1 is_due=0 dropped=0 looks=0 took=$((now - began))
        fi
        printf 'U %d %d\n' "$used" "$is_exact" >&39
    done
}
