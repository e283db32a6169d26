#!/usr/bin/env bash
# Run a command with a temporary Slurm cluster of one node and four processors: tests/services/slurm.sh python -m pytest -m slurm
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 COMMAND [ARGUMENT...]" >&2; exit 2; }

export PATH="$PATH:/usr/sbin:/sbin"
have() { command -v munged && command -v slurmctld && command -v slurmd && command -v srun; } >/dev/null
have || {
  echo "slurm.sh: Slurm not found, installing the packages slurm-wlm and munge" >&2
  apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    slurm-wlm munge >&2 && have ||
    { echo "slurm.sh: cannot install Slurm; put munged, slurmctld, slurmd and srun on PATH" >&2; exit 1; }
}

folder=$(mktemp -d)
chmod 711 "$folder" # munged requires a socket that all users can reach
pids=()
stop() {
  timeout 5 scancel --quiet --user "$(id -un)" 2>/dev/null || true
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do kill "${pids[i]}" 2>/dev/null && wait "${pids[i]}" || true; done
  rm -rf "$folder"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

read -r ctld_port slurmd_port < <("${PYTHON:-python}" -c '
import socket
sockets = [socket.socket() for _ in range(2)]
for s in sockets:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))')
mkdir "$folder/bin" "$folder/state" "$folder/spool"
host=$(hostname -s)
export SLURM_CONF="$folder/slurm.conf"
cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
SlurmctldPort=$ctld_port
SlurmdPort=$slurmd_port
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0
KillWait=2
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
cgroup=disabled # Slurm before 23 does not know "disabled"
if [[ "$(slurmd -V)" =~ \ 2[0-2]\. ]]; then cgroup=cgroup/v1; fi
echo "CgroupPlugin=$cgroup" >"$folder/cgroup.conf"

(umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
munged --foreground --key-file "$folder/munge.key" --socket "$folder/munge.socket" --pid-file "$folder/munged.pid" \
  --seed-file "$folder/munge.seed" --log-file "$folder/munged.log" &>"$folder/munged.out" &
pids+=($!)
slurmctld -D &>"$folder/slurmctld.log" &
pids+=($!)
slurmd -D &>"$folder/slurmd.log" &
pids+=($!)

for _ in {1..100}; do
  [[ "$(timeout 2 sinfo --noheader --format %T 2>/dev/null)" == idle* ]] && break
  sleep 0.2
done
timeout 10 srun true || { echo "slurm.sh: Slurm did not start" >&2; cat "$folder"/*.log "$folder"/*.out >&2; exit 1; }

# submitit detects dead jobs with sacct, which needs a database. squeue keeps jobs long enough for the tests.
cat >"$folder/bin/sacct" <<'END'
#!/usr/bin/env bash
while [ $# -gt 1 ]; do [ "$1" = -j ] && jobs+=",$2"; shift; done
echo "JobID|State|NodeList"
exec squeue --states=all --array --noheader --format="%i|%T|%N" --jobs="${jobs#,}"
END
chmod +x "$folder/bin/sacct"

export HARNESS_TEST_SLURM=1 PATH="$folder/bin:$PATH"
"$@"
