"""A real Slurm on this machine for tests: munged, slurmctld and two simulated nodes with fake GPUs, loopback only, in a folder of its own."""
import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
CPUS = 8
GPUS = 2

CONF = """ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={dir}/run/munge.sock
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool/%n
SlurmctldPidFile={dir}/run/slurmctld.pid
SlurmdPidFile={dir}/run/slurmd-%n.pid
SlurmctldLogFile={dir}/log/slurmctld.log
SlurmdLogFile={dir}/log/slurmd-%n.log
SwitchType=switch/none
MpiDefault=pmix
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
GresTypes=gpu
JobRequeue=1
KillWait=5
MinJobAge=3600
SchedulerParameters=sched_interval=2,batch_sched_delay=0
TmpFS={dir}/tmp/%n
ReturnToService=2
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[2]}-{ports[3]}] CPUs={cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory=4000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=one Nodes=n1 Default=YES MaxTime=INFINITE State=UP
PartitionName=two Nodes=n[1-2] MaxTime=INFINITE State=UP
"""


def missing():
    """Why there can be no Slurm here; empty where there can."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    absent = [name for name in DAEMONS if not shutil.which(name, path=path)]
    return f"{', '.join(absent)} not installed: apt-get install slurm-wlm munge" if absent else ""


def free_ports(n):
    """The first of n successive ports that nobody listens on."""
    for first in range(26817 + n * (os.getpid() % 24), 60000, 97):  # clusters of two tests may start at once
        sockets = []
        try:
            for port in range(first, first + n):
                sockets.append(socket.socket())
                sockets[-1].bind(("127.0.0.1", port))
            return list(range(first, first + n))
        except OSError:
            continue
        finally:
            for s in sockets:
                s.close()
    raise RuntimeError("no free ports")


class Lab:
    """with Lab(folder) as lab: lab.environment names the cluster for sbatch and its neighbours."""

    def __init__(self, folder):
        self.dir = Path(folder)
        self.environment = {"SLURM_CONF": str(self.dir / "etc/slurm.conf"), "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
        self.requeued = {}  # job id -> when it was first seen waiting again

    def __enter__(self):
        for name in ("etc", "run", "log", "state", "spool/n1", "spool/n2", "tmp/n1", "tmp/n2"):
            (self.dir / name).mkdir(parents=True)
        host = socket.gethostname().split(".")[0]
        (self.dir / "etc/slurm.conf").write_text(CONF.format(host=host, user=getpass.getuser(), dir=self.dir, ports=free_ports(4), cpus=CPUS, gpus=GPUS))
        (self.dir / "etc/gres.conf").write_text(f"Name=gpu File=/dev/tty[0-{GPUS - 1}]\n")  # any character device will do
        (self.dir / "etc/cgroup.conf").write_text("CgroupAutomount=no\n")
        key = self.dir / "etc/munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        d = self.dir
        self.run("munged", "--force", f"--key-file={d}/etc/munge.key", f"--socket={d}/run/munge.sock", f"--pid-file={d}/run/munged.pid",
                 f"--log-file={d}/log/munged.log", f"--seed-file={d}/state/munge.seed")
        conf = self.environment["SLURM_CONF"]
        self.run("slurmctld", "-f", conf, "-c")
        for node in ("n1", "n2"):
            self.run("slurmd", "-N", node, "-f", conf, "-c")
        self.wait(lambda: self.run("sinfo", "-h", "-N", "-o", "%T").split().count("idle") >= 3, "nodes do not become idle", 20)

    def __exit__(self, *_):
        for name in ("slurmd-n1", "slurmd-n2", "slurmctld", "munged"):
            try:
                os.kill(int((self.dir / f"run/{name}.pid").read_text()), signal.SIGKILL if name.startswith("slurm") else signal.SIGTERM)
            except (OSError, ValueError):
                pass

    def run(self, *command):
        """Output of a command of the cluster; fails with its words."""
        done = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}\n{self.log()}")
        return done.stdout

    def wait(self, condition, what, limit_s=60, step_s=0.1):
        deadline = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}\n{self.log()}")
            time.sleep(step_s)

    def tasks(self, job):
        """What Slurm tells of each task of a job."""
        return [dict(word.partition("=")[::2] for word in line.split()) for line in self.run("scontrol", "-o", "show", "job", str(job)).splitlines()]

    def states(self, job, fact="JobState"):
        """States of a job's tasks, or another fact: {"0": "COMPLETED", ...}; of one without tasks {"": ...}."""
        return {words.get("ArrayTaskId", ""): words[fact] for words in self.tasks(job)}

    @contextlib.contextmanager
    def held(self, partition):
        """Jobs submitted meanwhile start at its end: who waits for what they do is there before they begin."""
        self.run("scontrol", "update", f"PartitionName={partition}", "State=DOWN")
        try:
            yield
        finally:
            self.run("scontrol", "update", f"PartitionName={partition}", "State=UP")

    def end_in(self, job, seconds):
        """Moves the time limit of a running job: sbatch knows whole minutes only, an administrator moments."""
        self.run("scontrol", "update", f"JobId={job}", "EndTime=" + time.strftime("%FT%T", time.localtime(time.time() + seconds)))

    def restart_at_once(self, job):
        """Slurm lets a requeued job wait two minutes; an administrator need not. Its node must have done with the former start: after two seconds."""
        for words in self.tasks(job):
            if words["JobState"] != "PENDING" or int(words.get("Restarts", 0)) == 0:
                continue
            if time.monotonic() > self.requeued.setdefault(words["JobId"], time.monotonic()) + 2:
                subprocess.run(["scontrol", "update", f"JobId={words['JobId']}", "StartTime=now"], env={**os.environ, **self.environment}, capture_output=True)

    def log(self):
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in sorted(self.dir.glob("log/*")))
