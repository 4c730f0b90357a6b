there() {
  kubectl get node "$1" >/dev/null 2>&1
}

# Takes a node out of service, unless somebody has removed it since the report.
close() {
  ! there "$1" || kubectl cordon "$1"
}

# Drains a node, unless somebody has removed it, as an autoscaler does with what is empty.
empty() {
  ! there "$1" || kubectl drain "$1" --ignore-daemonsets --delete-emptydir-data --timeout=15m || ! there "$1"
}

# Pods that wait for a node.
waiting() {
  kubectl get pods -A --field-selector spec.nodeName=,status.phase=Pending -o name | wc -l
}

# The node of a NodeClaim.
node_of() {
  kubectl get nodeclaim "$1" -o jsonpath='{.status.nodeName}'
}

# Opens a node to what is evicted for it, and closes it again: fill NODE NAMESPACE/POD...
fill() {
  node=$1
  shift
  kubectl uncordon "$node"
  for pod; do
    eviction='{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"namespace":"'${pod%/*}'","name":"'${pod#*/}'"}}'
    # A disruption budget may refuse until another pod is ready again.
    until echo "$eviction" | kubectl create --raw "/api/v1/namespaces/${pod%/*}/pods/${pod#*/}/eviction" -f - >/dev/null; do
      kubectl get pod -n "${pod%/*}" "${pod#*/}" >/dev/null || break
      sleep 5
    done
  done
  for pod; do
    kubectl wait -n "${pod%/*}" --for=delete "pod/${pod#*/}" --timeout=15m >/dev/null
  done
  # Whoever owns the pods has made them again by then.
  sleep 2
  tries=0
  while [ "$(waiting)" -gt "$before" ] && [ "$tries" -lt 120 ]; do
    tries=$((tries + 1))
    sleep 1
  done
  kubectl cordon "$node"
}

open_all() {
  for node in $closed; do
    kubectl uncordon "$node"
  done
  closed=''
}

closed=''
trap open_all EXIT
before=$(waiting)
