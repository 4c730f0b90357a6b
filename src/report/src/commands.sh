stop() {
  echo "stopped: $1" >&2
  exit 1
}

# Whether a node is there; a call that fails says nothing about it, so nothing goes on.
there() {
  found=$(kubectl get node "$1" --ignore-not-found -o name) || stop "cannot see whether node $1 is there"
  [ -n "$found" ]
}

# Takes a node out of service, unless somebody has removed it since the report.
close() {
  ! there "$1" || kubectl cordon "$1"
}

# Closes a node that is to go; it is opened again if it does not come to that. Noted first: the call may be interrupted.
leave() {
  leaving="$leaving $1 "
  close "$1"
}

# Drains a node, unless somebody has removed it, as an autoscaler does with what is empty, and waits until its pods have
# nodes. What is drained stays closed from then on, also where its ending fails.
empty() {
  ! there "$1" || kubectl drain "$1" --ignore-daemonsets --delete-emptydir-data --timeout=15m || ! there "$1" ||
    stop "node $1 cannot be drained"
  settle
  leaving="${leaving%% "$1" *} ${leaving#* "$1" }"
}

# Pods that wait for a node.
waiting() {
  pods=$(kubectl get pods -A --field-selector spec.nodeName=,status.phase=Pending -o name) || return 1
  echo "$pods" | awk 'NF' | wc -l
}

# The node of a NodeClaim.
node_of() {
  kubectl get nodeclaim "$1" -o jsonpath='{.status.nodeName}'
}

# A field of a pod: of_pod NAMESPACE/POD FIELD; nothing where there is none. One of the same name may follow it.
of_pod() {
  kubectl get pod -n "${1%/*}" "${1#*/}" --ignore-not-found -o jsonpath="{$2}"
}

uid_of() {
  of_pod "$1" .metadata.uid
}

# Evicts this very pod: evict NAMESPACE/POD UID. A disruption budget may refuse until another pod is ready again.
evict() {
  eviction='{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"namespace":"'${1%/*}'","name":"'${1#*/}'"},"deleteOptions":{"preconditions":{"uid":"'$2'"}}}'
  tries=0
  until echo "$eviction" | kubectl create --raw "/api/v1/namespaces/${1%/*}/pods/${1#*/}/eviction" -f - >/dev/null; do
    now=$(uid_of "$1") || stop "cannot see whether pod $1 is there"
    [ "$now" = "$2" ] || break
    tries=$((tries + 1))
    [ "$tries" -lt 180 ] || stop "pod $1 may not be evicted"
    sleep 5
  done
}

# Waits until what was evicted has nodes again: no more pods wait than before.
settle() {
  # Whoever owns the pods has made them again by then.
  sleep 2
  tries=0
  while now=$(waiting) || stop "cannot see which pods wait"; [ "$now" -gt "$before" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 120 ] || stop "$((now - before)) more pods wait for a node than before"
    sleep 1
  done
  # Pods that waited before and have nodes by now make no room for those that follow.
  before=$now
}

# Opens a node to what is evicted for it, and closes it again: fill NODE NAMESPACE/POD...
fill() {
  node=$1
  shift
  kubectl uncordon "$node"
  evicted=''
  for pod; do
    uid=$(uid_of "$pod") && on=$(of_pod "$pod" .spec.nodeName) || stop "cannot see pod $pod"
    # What is on this node was brought there by a run that was interrupted, and has kept its name.
    if [ -n "$uid" ] && [ "$on" != "$node" ]; then
      evict "$pod" "$uid"
      evicted="$evicted $pod=$uid"
    fi
  done
  for pod in $evicted; do
    tries=0
    while now=$(uid_of "${pod%=*}") || stop "cannot see pod ${pod%=*}"; [ "$now" = "${pod#*=}" ]; do
      tries=$((tries + 1))
      [ "$tries" -lt 900 ] || stop "pod ${pod%=*} does not end"
      sleep 1
    done
  done
  settle
  kubectl cordon "$node"
}

open_all() {
  for node in $closed; do
    kubectl uncordon "$node"
  done
  closed=''
}

# From here on what was bought is as any other machine.
release() {
  [ -z "$bought" ] || kubectl annotate nodeclaims,nodes -l "$bought" "$kept-"
  bought=''
}

# However it ends, nothing stays closed or held back that is not gone; a second Ctrl-C does not cut it short.
tidy() {
  trap '' INT TERM HUP
  set +e
  closed="$closed $leaving"
  open_all
  release
}

closed=''
leaving=''
bought=''
trap tidy EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
before=$(waiting)
