"""Sweeps on a real Slurm: arrays of jobs that are told to end, requeued, cancelled or reach their time limit; a merge after them; two nodes; memory."""
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cli"))
import lab  # noqa: E402
import program  # noqa: E402
import sweep_test  # noqa: E402

CANCELLED = "a 100% \"cancelled\" #1.sweep"  # a name with what Slurm reads in another way
# Six points for each of four parts.
SWEEP = sweep_test.SWEEP.replace("name: small", "name: queue")
SITE = """
sbatch_options=(--partition={partition})
nodes={nodes}
tasks_per_node={tasks}
gpus_per_node={gpus}
time_limit=10
grace_seconds=60
launch=({launch})
launch_environment=({environment})
memory_per_node=1G
"""
ONE_MACHINE = "OMPI_MCA_btl=self,vader OMPI_MCA_pml=ob1 OMPI_MCA_btl_vader_single_copy_mechanism=none"


class Cluster(program.ProgramTest):
    """One cluster for all tests: starting it takes a second."""

    @classmethod
    def setUpClass(cls):
        holder = tempfile.TemporaryDirectory(prefix="moekv-slurm-", ignore_cleanup_errors=True)  # a daemon may still write its state
        cls.addClassCleanup(holder.cleanup)
        cls.lab = cls.enterClassContext(lab.Lab(holder.name)) if hasattr(cls, "enterClassContext") else lab.Lab(holder.name).__enter__()
        if not hasattr(cls, "enterClassContext"):
            cls.addClassCleanup(cls.lab.__exit__)

    def setUp(self):
        super().setUp()
        (self.folder / "hold").mkdir()

    def site(self, name, partition, nodes=1, tasks=1, gpus=0, environment=ONE_MACHINE, launch="srun --mpi=pmix"):
        launch += f" env LD_PRELOAD='{HOLD}' MOEKV_HOLD='{self.folder}/hold'"
        (self.folder / name).write_text(SITE.format(partition=partition, nodes=nodes, tasks=tasks, gpus=gpus, environment=environment, launch=launch))
        return self.folder / name

    def submit(self, folder, site, parts, *more):
        done = self.run_ok("sweep", "queue.yaml", *more, "--out", folder, "--submit", parts, "--site", site, **self.lab.environment)
        self.assertIn("sbatch", done.out)
        return (self.folder / folder / "slurm/jobs").read_text().split()

    def until_done(self, job):
        def done():
            self.lab.restart_at_once(job)
            return all(state in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED") for state in self.lab.states(job).values())

        self.lab.wait(done, f"job {job} does not end", 150)

    def hold(self, *journals, until=""):
        """The process that writes one of these journals waits after its first point until a signal has come, or until it is killed."""
        for journal in journals:
            (self.folder / "hold" / journal).write_text(until)

    def wait_held(self):
        self.lab.wait(lambda: all(path.suffix == ".held" for path in (self.folder / "hold").iterdir()), "no point ends")

    def assert_equals_a_run_here(self, folder):
        self.run_ok("sweep", "queue.yaml", "--out", "here")
        self.run_ok("merge", "here", "--out", "here.h5")
        self.assertIn("same decisions and counters", self.run_ok("diff", "here.h5", folder + ".h5").out)
        sweep_test.Sweeps.assert_same_numbers(self, "here.h5", folder + ".h5")

    def logs(self, folder):
        return {path.name: path.read_text() for path in (self.folder / folder / "slurm").glob("*.log")}


class Jobs(Cluster):
    def test_array_with_requeue_and_merge(self):
        (self.folder / "queue.yaml").write_text(SWEEP)
        site = self.site("site.sh", "one")
        self.hold("0of4.jsonl", "1of4.jsonl", "3of4.jsonl", "0of1.jsonl")
        with self.lab.held("one"):
            parts, merge = self.submit("queue.sweep", site, 4)
            cancelled, _ = self.submit(CANCELLED, site, 1, "--only", "0-7")
            again = self.refuse("sweep", "queue.yaml", "--out", "queue.sweep", "--resume", "--submit", "3", "--site", site, **self.lab.environment)
            self.assertIn(f"job {parts} of ", again)
            status = self.run_ok("sweep", "queue.sweep", "--status").out
        self.assertIn("24 points", status)
        self.wait_held()
        self.lab.run("scancel", "--signal=USR1", f"{parts}_0")  # as Slurm does `grace_seconds` before the limit
        self.lab.run("scontrol", "requeue", f"{parts}_1")
        self.lab.run("scancel", "--batch", "--signal=TERM", f"{parts}_3")  # to the script; the last one: Slurm gives it the job id of the array
        self.lab.run("scancel", cancelled)
        for job in (parts, merge, cancelled):
            self.until_done(job)
        logs = self.logs("queue.sweep")
        self.assertEqual(set(self.lab.states(parts).values()), {"COMPLETED"}, f"{logs}\n{self.lab.log()}")
        self.assertEqual(self.lab.states(parts, "Restarts"), {"0": "1", "1": "1", "2": "0", "3": "1"}, logs)
        for part, name, by_itself in ((0, "SIGUSR1", True), (1, "SIGTERM", False), (3, "SIGUSR1", True)):
            log = logs[f"part-{part}.log"]
            self.assertIn(f"interrupted ({name})", log)
            self.assertEqual("job.sh: interrupted, asks to be requeued (restart 1 of at most 20)" in log, by_itself, log)
        end = self.logs(CANCELLED)["part-0.log"]
        self.assertEqual((*self.lab.states(cancelled).values(), *self.lab.states(cancelled, "Restarts").values()), ("CANCELLED", "0"), end)
        self.assertIn("interrupted (SIGTERM)", end)
        self.assertIn("24 points: 24 ok", logs["merge.log"])
        self.assert_equals_a_run_here("queue.sweep")

    def test_two_nodes_with_gpus(self):
        (self.folder / "queue.yaml").write_text(SWEEP)
        environment = "OMPI_MCA_btl=self,tcp OMPI_MCA_pml=ob1"  # simulated nodes must not share memory names
        site = self.site("site.sh", "two", nodes=2, gpus=2, environment=environment)
        few = ["trace.synthetic.n_requests=4", "trace.synthetic.prompt_tokens=32", "trace.synthetic.output_tokens=6", "--only", "0-1"]
        for out in ("two.sweep", "two again.sweep"):
            parts, merge = self.submit(out, site, 1, *few)
            self.until_done(parts)
            self.until_done(merge)
            logs = self.logs(out)
            if "Open MPI failed to TCP connect" not in logs["part-0.log"]:  # seen once: no socket was free, and Open MPI crashed over it
                break
        self.assertIn("2 of 2 points: 2 ok", logs["part-0.log"], logs)
        self.run_ok("sweep", "queue.yaml", *few, "--out", "here")
        for folder, code in (("here", 1), (out, 1)):  # 22 points are not finished
            self.assertEqual(program.run("merge", folder, "--out", folder + ".2.h5", folder=self.folder).code, code)
        self.assertIn("same decisions and counters", self.run_ok("diff", "here.2.h5", f"{out}.2.h5").out)
        self.assertEqual(self.processes(self.folder / f"{out}.2.h5"), 4)

    def test_points_of_a_process_of_their_own(self):
        """Their ranks are as many as the job has processes; more jobs than points are not submitted."""
        (self.folder / "queue.yaml").write_text(SWEEP.replace("  cluster: {ranks: 4}\n", ""))
        site = self.site("site.sh", "one", tasks=2)
        more = ["--only", "0-1", "--attempts", "2", "--budget", "1h", "--fail-fast", "--isolate", "process"]
        parts, merge = self.submit("own.sweep", site, 4, *more)
        self.assertIn("--only 0-1 --attempts 2 --budget 1h --files auto --fail-fast --isolate process --processes 2\n",
                      (self.folder / "own.sweep/slurm/parts.sbatch").read_text())
        self.until_done(parts)
        self.until_done(merge)
        logs = self.logs("own.sweep")
        self.assertEqual(set(self.lab.states(parts)), {"0", "1"})
        self.assertEqual(logs["part-0.log"].count("1 of 1 points: 1 ok"), 1, logs)
        self.assertEqual(self.processes(self.folder / "own.sweep.h5"), 2)

    def processes(self, path):
        sweep = sweep_test.moekv_results.load_sweep(path)
        return int(sweep.provenance["n_processes"])


class Limits(Cluster):
    """Slurm looks at limits every thirty seconds: a test of its own, which waits beside others."""

    def test_time_limits(self):
        (self.folder / "queue.yaml").write_text(SWEEP)
        self.hold("0of4.jsonl", "0of1.jsonl")
        self.hold("1of4.jsonl", until="killed")
        with self.lab.held("one"):
            parts, merge = self.submit("late.sweep", self.site("site.sh", "one"), 4)
            single, single_merge = self.submit("direct.sweep", self.site("direct.sh", "one", launch=""), 1, "--only", "0-7")
        self.wait_held()
        for job in (f"{parts}_0", f"{single}_0"):
            self.lab.end_in(job, 75)  # the warning is due a minute and half before it
        self.lab.end_in(f"{parts}_1", 1)
        for job in (parts, merge, single, single_merge):
            self.until_done(job)
        logs, alone = self.logs("late.sweep"), self.logs("direct.sweep")["part-0.log"]
        self.assertEqual({*self.lab.states(parts).values(), *self.lab.states(single).values()}, {"COMPLETED"}, f"{logs}\n{alone}\n{self.lab.log()}")
        for log in (logs["part-0.log"], alone):
            self.assertIn("interrupted (SIGUSR1)", log)
            self.assertIn("job.sh: interrupted, asks to be requeued (restart 1 of at most 20)", log)
        self.assertIn("8 of 8 points: 8 ok", alone)
        self.assertIn("DUE TO TIME LIMIT", logs["part-1.log"])
        self.assertIn("job.sh: ended by its time limit, asks to be requeued (restart 1 of at most 20)", logs["part-1.log"])
        self.assertIn("24 points: 24 ok", logs["merge.log"])
        self.assert_equals_a_run_here("late.sweep")


if __name__ == "__main__":
    HOLD = sys.argv.pop()  # the library of support/hold_after_point.cpp
    reason = lab.missing()
    if reason:
        print(f"skipped: no Slurm here: {reason}")
        sys.exit(77)
    unittest.main()
