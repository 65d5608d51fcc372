# Ends what a dev stack owns, and only that. One script for the guard, for `down` and for the next start.
#
# usage: sh -c "$(cat reap.sh)" reap MODE DIR EPHEMERAL
#   MODE       guard: first wait until standard input ends, which happens when the owner dies in any way
#              reap:  begin at once
#   EPHEMERAL  1: remove DIR when nothing is left
#
# DIR/manifest has the boot id in its first line and then one line per process:
#   PID START KIND NAME DATADIR      KIND: kill, postgres or guard
# A process is ours only when its start time is the recorded one; a reused pid never matches.
set -u
mode=$1 dir=$2 ephemeral=$3
manifest=$dir/manifest
[ -f "$manifest" ] || exit 0
# Opened before the wait: the guard still knows what is ours when somebody has removed the directory.
exec 3< "$manifest"

if [ "$mode" = guard ]; then
  trap '' HUP INT TERM QUIT PIPE
  while read -r _; do :; done
fi
lines=$(cat <&3)

boot_id() { cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo none; }

# Prints the start time of a pid; nothing when it is gone or a zombie.
started_at() {
  if [ -r /proc/self/stat ]; then
    { read -r line < "/proc/$1/stat"; } 2>/dev/null || return 0
    # The command name may hold blanks and parentheses: fields are counted from the last one.
    set -- ${line##*) }
    case $1 in Z | X) return 0 ;; esac
    echo "${20:-}"
  else
    case $(ps -o state= -p "$1" 2>/dev/null) in Z*) return 0 ;; esac
    ps -o lstart= -p "$1" 2>/dev/null | awk '{$1=$1; gsub(/ /, "_"); print}'
  fi
}

children_of() {
  cat "/proc/$1/task/$1/children" 2>/dev/null ||
    ps -A -o pid= -o ppid= 2>/dev/null | awk -v parent="$1" '$2 == parent {print $1}'
}

# Prints the manifest lines whose process is alive. A line cut short by a crash has no fifth field.
alive() {
  while read -r pid start kind name data; do
    [ -n "${data:-}" ] && [ "$kind" != guard ] && [ "$(started_at "$pid")" = "$start" ] &&
      echo "$pid $start $kind $name $data"
  done <<EOT
$lines
EOT
  return 0
}

# Children are remembered with their own start times: they outlive their postmaster for a moment, and for ever
# when they are stopped.
family=
remember_children() {
  for child in $(children_of "$1"); do
    family="$family $child:$(started_at "$child")"
  done
}
signal_family() {
  for member in $family; do
    [ "$(started_at "${member%%:*}")" = "${member#*:}" ] && kill -"$1" "${member%%:*}" 2>/dev/null
  done
  return 0
}
family_left() {
  for member in $family; do
    [ -n "${member#*:}" ] && [ "$(started_at "${member%%:*}")" = "${member#*:}" ] && echo "${member%%:*}"
  done
  return 0
}

# Waits up to $1 twentieths of a second until nothing of ours is alive.
wait_gone() {
  n=$1
  while [ "$n" -gt 0 ]; do
    [ -z "$(alive)$(family_left)" ] && return 0
    sleep 0.05
    n=$((n - 1))
  done
  return 1
}

if [ "${lines%%
*}" = "boot $(boot_id)" ]; then
  ours=$(alive)
  while read -r pid start kind name data; do
    [ -n "$pid" ] || continue
    if [ "$kind" = postgres ]; then
      # QUIT lets the postmaster remove its shared memory; stopped processes must wake up to see it.
      remember_children "$pid"
      signal_family CONT
      kill -CONT "$pid" 2>/dev/null
      kill -QUIT "$pid" 2>/dev/null
    else
      kill -KILL "$pid" 2>/dev/null
    fi
  done <<EOT
$ours
EOT
  if ! wait_gone 60; then
    while read -r pid start kind name data; do
      [ -n "$pid" ] || continue
      remember_children "$pid"
      kill -KILL "$pid" 2>/dev/null
    done <<EOT
$(alive)
EOT
    signal_family KILL
    wait_gone 100 || { echo "still alive: $(alive | tr '\n' ';') $(family_left)"; exit 1; }
  fi
  # A postmaster that was killed leaves a System V segment; its id is the second number of line 7.
  while read -r pid start kind name data; do
    if [ "$kind" = postgres ] && [ -f "$data/postmaster.pid" ]; then
      segment=$(sed -n '7s/^ *[0-9]* *\([0-9]*\)$/\1/p' "$data/postmaster.pid" 2>/dev/null)
      [ -n "$segment" ] && ipcrm -m "$segment" >/dev/null 2>&1
    fi
  done <<EOT
$lines
EOT
fi

if [ "$ephemeral" = 1 ]; then
  rm -rf "$dir"
else
  # Addresses that nobody listens on any more must not be found.
  rm -f "$manifest" "$dir/endpoints.json"
fi
exit 0
