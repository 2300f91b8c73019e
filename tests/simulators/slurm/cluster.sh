#!/bin/bash
# A real Slurm cluster on one machine, for tests: a controller and N nodes (default 3), each in namespaces of its own
# (network, host name, mounts), with two NPUs per node as generic resources and no route outside.
#
#   cluster.sh [-n N] COMMAND [ARG...]    start it, run COMMAND on the controller's side, end it; exits as COMMAND does
#   cluster.sh --start-node I             from COMMAND: start slurmd of node I again
#
# Root; Debian's slurmd slurmctld slurm-client munge iproute2. Mounts, the hosts file and networks lie in namespaces that
# end with the command, and every daemon with them: nothing of the host is changed. COMMAND finds in CLUSTER_FOLDER:
#   node-I/      what node I has as /var/tmp: files of its own
#   small/       a shared file system of its own, to be filled
#   jobcomp.log  Slurm's account of every job that ended
set -euo pipefail
here=$(readlink -f "$0")

start_node() {
    nsenter --net="/run/netns/n$1" unshare --uts --mount --propagation private bash -c '
        hostname "node$1"
        mount --bind "$2/node-$1" /var/tmp
        mount -t tmpfs -o mode=1777 tmpfs /run/lock
        mount --bind "$2/node-$1.machine-id" /etc/machine-id
        exec slurmd -c -N "node$1"' - "$1" "$CLUSTER_FOLDER"
}

if [ "${1:-}" = --start-node ]; then start_node "$2"; exit; fi
nodes=3; [ "${1:-}" = -n ] && { nodes=$2; shift 2; }
if [ -z "${CLUSTER_FOLDER:-}" ]; then
    CLUSTER_FOLDER=$(mktemp -d "${TMPDIR:-/tmp}/slurm-cluster.XXXXXX"); export CLUSTER_FOLDER
    trap 'rm -rf "$CLUSTER_FOLDER"' EXIT
    # unshare ignores SIGTERM: whoever ends this script, however, ends the cluster. COMMAND gets SIGINT, as in front of one.
    setpriv --pdeathsig KILL env --default-signal=INT unshare --mount --net --pid --fork --kill-child --mount-proc \
        bash "$here" -n "$nodes" "$@" &
    trap 'kill -KILL $!' TERM INT
    wait $!; exit
fi
w=$CLUSTER_FOLDER; export SLURM_CONF=$w/etc/slurm.conf
mount --make-rprivate /
for place in /run /var/spool /var/log /sys/fs/cgroup; do mount -t tmpfs tmpfs $place; done
mkdir -p /run/netns /run/munge /run/lock /run/slurm /var/log/munge /var/log/slurm /var/spool/ctl "$w/etc"
mkdir -p /sys/fs/cgroup/freezer   # slurmd wants the place; proctrack/linuxproc does not use it
[ -e /etc/machine-id ] || : > /etc/machine-id
mkdir -p "$w/small"; mount -t tmpfs -o size=64m tmpfs "$w/small"
dd if=/dev/urandom of="$w/munge.key" bs=1 count=1024 status=none
chown -R munge:munge /run/munge /var/log/munge "$w/munge.key"; chmod 400 "$w/munge.key"; chmod 755 /run/munge "$w"
runuser -u munge -- /usr/sbin/munged --key-file="$w/munge.key" --seed-file=/run/munge/seed
printf '127.0.0.1 localhost\n10.77.0.1 ctl\n' > "$w/hosts"
ip link set lo up; ip link add br0 type bridge; ip addr add 10.77.0.1/24 dev br0; ip link set br0 up
{
    printf '%s\n' ClusterName=test 'SlurmctldHost=ctl(10.77.0.1)' SlurmUser=root SlurmdUser=root AuthType=auth/munge \
        StateSaveLocation=/var/spool/ctl SlurmdSpoolDir=/var/spool/%n SlurmdPidFile=/run/slurm/%n.pid \
        SlurmctldPidFile=/run/slurm/ctl.pid SlurmctldLogFile=/var/log/slurm/ctl.log SlurmdLogFile=/var/log/slurm/%n.log \
        ProctrackType=proctrack/linuxproc TaskPlugin=task/none SelectType=select/cons_tres \
        SelectTypeParameters=CR_Core_Memory ReturnToService=2 SwitchType=switch/none MpiDefault=none GresTypes=npu \
        SlurmdTimeout=6 AuthInfo=cred_expire=5 JobRequeue=1 KillWait=5 MessageTimeout=10 SchedulerParameters=sched_interval=2,batch_sched_delay=0 \
        JobCompType=jobcomp/filetxt "JobCompLoc=$w/jobcomp.log"
    for i in $(seq "$nodes"); do
        echo "NodeName=node$i NodeAddr=10.77.0.1$i CPUs=2 RealMemory=${CLUSTER_NODE_MB:-12000} Gres=npu:2 State=UNKNOWN"
        echo "10.77.0.1$i node$i" >> "$w/hosts"
    done
    echo "PartitionName=p Nodes=node[1-$nodes] Default=YES MaxTime=2-0 State=UP OverSubscribe=NO"
    [ "$nodes" -lt 3 ] || printf 'PartitionName=%s MaxTime=2-0 State=UP OverSubscribe=NO\n' 'left Nodes=node1,node3' 'right Nodes=node2,node3'
    echo "PartitionName=one Nodes=node1 MaxTime=2-0 State=UP OverSubscribe=NO"
} > "$w/etc/slurm.conf"
echo "NodeName=node[1-$nodes] Name=npu Count=2" > "$w/etc/gres.conf"
printf 'CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\n' > "$w/etc/cgroup.conf"
mount --bind "$w/hosts" /etc/hosts
unshare --uts sh -c 'hostname ctl; exec slurmctld -c'
for i in $(seq "$nodes"); do
    ip netns add "n$i"; ip link add "v$i" type veth peer name eth0 netns "n$i"; ip link set "v$i" master br0 up
    ip -n "n$i" addr add "10.77.0.1$i/24" dev eth0; ip -n "n$i" link set eth0 up; ip -n "n$i" link set lo up
    mkdir -p "/var/spool/node$i" "$w/node-$i"; chmod 1777 "$w/node-$i"
    printf '%032x\n' "$i" > "$w/node-$i.machine-id"
    start_node "$i"
done
for _ in $(seq 600); do
    [ "$(sinfo -h -t idle -o %D 2>/dev/null | head -1)" = "$nodes" ] && break
    sleep 0.2
done
[ "$(sinfo -h -t idle -o %D | head -1)" = "$nodes" ] || { sinfo -N -l; tail -n 20 /var/log/slurm/*.log; exit 97; } >&2
code=0; unshare --uts sh -c 'hostname ctl; exec "$@"' - "$@" || code=$?
exit $code   # the namespaces end, and with them every daemon
