"""How a sweep is stopped, gone on with and isolated: signals, limits, crashes, damage."""
import json
import os
import re
import shutil
import signal
import time
import unittest

import program
import sweep_report_test
import sweep_test

# The second point needs half a GiB, the third keeps no payload.
NEEDS = """
base:
  model: deepseek-v2-lite
  trace: {synthetic: {preset: uniform, n_requests: 48, prompt_tokens: 1000, output_tokens: 24}, layers: [1-9]}
  cluster: {ranks: 8}
  placement: {layout: local}
  batch: {load: concurrency(48)}
axes:
  - cases: [{trace.synthetic.n_requests: 4}, {backend: host}, {backend: count}]
"""


class Control(sweep_test.SweepFiles):
    def start_until_point(self, *arguments):
        """A sweep that has begun a point."""
        job = program.start(["sweep", *arguments, "--out", "cut", "--resume"], folder=self.folder)
        deadline = time.monotonic() + 30
        while '"event":"start"' not in self.journal("cut") and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        return job

    def journal(self, folder):
        return "".join(path.read_text() for path in (self.folder / folder).glob("journal/*.jsonl"))

    def test_one_request_to_stop_that_comes_twice_is_one(self):
        """As timeout(1) and a shell send it: to the process and to its group. A point in a process of its own gets it from its parent too."""
        name = self.write(sweep_test.LONG)
        large = ["trace.synthetic.n_requests=48", "trace.synthetic.prompt_tokens=512"]
        for isolate in ([], ["--isolate", "process"]):
            job = self.start_until_point(name, *large, "--grace", "0s", *isolate)
            time.sleep(0.1)
            for _ in range(2):
                os.killpg(job.pid, signal.SIGTERM)
                time.sleep(0.02)
            done = program.finish(job)
            self.assertEqual(done.code, 75, done)
            status = json.loads(self.run_ok("sweep", "cut", "--status", "--json").out)
            self.assertEqual([p["status"] for p in status].count("failed"), 0, status)
            shutil.rmtree(self.folder / "cut")

    def test_damaged_results_are_made_again(self):
        name = self.write(sweep_report_test.REPORT)
        for files in ("auto", "each"):
            self.run_ok("sweep", name, "--out", files, "--files", files)
            self.run_ok("merge", files, "--out", "whole.h5")
            path = sorted((self.folder / files / "points").iterdir())[0]
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 4
            path.write_bytes(content if files == "auto" else content[:len(content) // 2])
            done = program.run("merge", files, "--out", "damaged.h5", folder=self.folder)
            self.assertEqual((done.code, "7 ok, 0 failed, 1 not finished" in done.out), (1, True), done)
            self.assertIn("its result is gone or damaged", self.run_ok("sweep", files, "--status").out)
            (self.folder / files / "sweep.json").unlink()
            self.assertIn("goes on with --resume", self.refuse("sweep", name, "--out", files))
            self.run_ok("sweep", name, "--out", files, "--resume")
            self.run_ok("merge", files, "--out", "mended.h5")
            self.run_ok("diff", "whole.h5", "mended.h5")

    def test_signals_end_a_sweep_resumably(self):
        name = self.write(sweep_test.LONG)
        large = ["trace.synthetic.n_requests=48", "trace.synthetic.prompt_tokens=512"]
        for number, (sent, grace) in enumerate(((signal.SIGTERM, "0s"), (signal.SIGUSR1, "60s"), (signal.SIGINT, "0s"))):
            (self.folder / "cut/journal/0of1.jsonl").unlink(missing_ok=True)
            job = self.start_until_point(name, *large, "--grace", grace)
            time.sleep(0.05)
            job.send_signal(sent)
            done = program.finish(job)
            self.assertEqual(done.code, 75, done)
            self.assertIn(f"interrupted ({sent.name})", done.err)
            ended = '"event":"ok"' if grace == "60s" else f'"reason":"{sent.name}"'
            self.assertIn(ended, self.journal("cut"), f"signal {number}")
        self.run_ok("sweep", name, *large, "--out", "cut", "--resume")
        whole = self.run_ok("sweep", name, *large, "--out", "whole").out
        useful, overhead = (float(re.search(text, whole)[1]) for text in (r"([\d.]+) of it inside steps", r"([\d.]+) ms a point outside replays"))
        self.assertGreaterEqual(useful, 0.95, whole)  # points of a second and less
        self.assertLessEqual(overhead, 5.0, whole)  # CPU time
        for folder in ("cut", "whole"):
            self.run_ok("merge", folder, "--out", folder + ".h5")
        self.assertIn("4 and 4 points: same decisions and counters", self.run_ok("diff", "cut.h5", "whole.h5").out)
        sweep_test.Sweeps.assert_same_numbers(self, "cut.h5", "whole.h5")

    def test_crashes_count_and_end_in_quarantine(self):
        name = self.write(sweep_test.LONG)
        self.run_ok("sweep", name, "--only", "1", "--out", "cut")
        point = json.loads(self.run_ok("sweep", "cut", "--status", "--json").out)[0]
        journal = self.folder / "cut/journal/0of1.jsonl"
        line = json.dumps({"time": "2024-01-01T00:00:0{}.000Z", "id": point["id"], "event": "start", "attempt": 1})
        with open(journal, "a") as file:
            file.writelines(line.replace("{}", str(i)) + "\n" for i in range(3))
            file.write('{"time":"2024-01-01T00:00:09.000Z","id":"torn')
        done = program.run("sweep", name, "--out", "cut", "--resume", folder=self.folder)
        self.assertEqual(done.code, 1, done)
        self.assertIn("3 ok, 1 failed", done.out)
        self.assertIn("left alone: it ended 3 times", self.run_status("cut"))
        done = self.run_ok("sweep", name, "--out", "cut", "--resume", "--retry-failed")
        self.assertIn("4 ok, 0 failed", done.out)

    def test_a_result_of_another_point_does_not_count(self):
        name = self.write(sweep_report_test.REPORT)
        self.run_ok("sweep", name, "--out", "s", "--files", "each")
        self.run_ok("merge", "s", "--out", "whole.h5")
        first, second = sorted((self.folder / "s/points").iterdir())[:2]
        second.write_bytes(first.read_bytes())
        self.assertIn("its result is gone or damaged", self.run_status("s"))
        self.run_ok("sweep", name, "--out", "s", "--resume")
        self.run_ok("merge", "s", "--out", "mended.h5")
        self.run_ok("diff", "whole.h5", "mended.h5")

    def test_a_sweep_file_that_changes_under_isolated_points_fails_none_of_them(self):
        name = self.write(sweep_test.LONG)
        launcher = self.folder / "launch.sh"
        launcher.write_text(f'#!/bin/sh\nsed -i "s/lru, fifo/lru, fifo, sieve/" {name}\nexec "$@"\n')
        launcher.chmod(0o755)
        done = program.run("sweep", name, "--isolate", "process", "--launch", "./launch.sh", folder=self.folder)
        self.assertEqual(done.code, 2, done)
        self.assertRegex(done.err, "refuses the sweep: .*was begun with another list of points")
        self.write(sweep_test.LONG)
        self.assertIn("4 of 4 points: 4 ok", self.run_ok("sweep", name, "--isolate", "process", "--resume").out)

    def run_status(self, folder):
        return self.run_ok("sweep", folder, "--status").out

    def test_isolated_points_survive_a_crash_of_one(self):
        name = self.write(sweep_test.LONG)
        victim = json.loads(self.run_ok("sweep", name, "--dry-run", "--json").out)[1]["id"]
        launcher = self.folder / "launch.sh"
        launcher.write_text(f'#!/bin/sh\ncase "$*" in *{victim}*) echo last words >&2; kill -SEGV $$ ;; esac\nexec "$@"\n')
        launcher.chmod(0o755)
        done = program.run("sweep", name, "--isolate", "process", "--launch", "./launch.sh", folder=self.folder)
        self.assertEqual(done.code, 1, done)
        self.assertIn("3 ok, 1 failed", done.out)
        self.assertIn("killed by signal 11 (Segmentation fault): last words", self.run_status("small.sweep"))
        done = program.run("sweep", name, "--resume", "--retry-failed", "--fail-fast", "--isolate", "process", "--launch", "./launch.sh", folder=self.folder)
        self.assertEqual(done.code, 1, done)
        self.run_ok("sweep", name, "--resume", "--retry-failed", "--isolate", "process")
        self.run_ok("sweep", name, "--out", "whole")
        for folder in ("small.sweep", "whole"):
            self.run_ok("merge", folder, "--out", folder + ".h5")
        self.run_ok("diff", "small.sweep.h5", "whole.h5")

    def test_an_isolated_point_is_saved_under_a_launcher_that_kills_after_a_sigterm(self):
        """As srun does with its tasks; a SIGUSR1 it passes on."""
        name = self.write(sweep_test.LONG)
        (self.folder / "launch.sh").write_text("#!/bin/bash\ntrap 'kill -KILL $child' TERM\ntrap 'kill -USR1 $child' USR1\n\"$@\" &\nchild=$!\n"
                                               "while kill -0 $child; do wait $child; code=$?; done\nexit $code\n")
        (self.folder / "launch.sh").chmod(0o755)
        job = self.start_until_point(name, "trace.synthetic.n_requests=48", "trace.synthetic.prompt_tokens=512", "--grace", "0s", "--isolate", "process",
                                     "--launch", "./launch.sh")
        time.sleep(0.05)
        job.terminate()
        done = program.finish(job)
        self.assertEqual((done.code, "interrupted (SIGTERM)" in done.err), (75, True), done)
        self.assertIn('"saved_step":', self.journal("cut"))

    def test_isolated_points_of_several_processes(self):
        """Ranks that the configuration leaves to the processes are the launcher's."""
        name = self.write(sweep_test.LONG.replace("  cluster: {ranks: 4}\n", ""))
        launch = ["--isolate", "process", "--launch", f"{program.MPIEXEC} -n 2"]
        self.run_ok("sweep", name, "--only", "0", "--out", "alone", *launch, "--processes", "2")
        self.run_ok("sweep", name, "--only", "0", "--out", "together", ranks=2)
        status = [json.loads(self.run_ok("sweep", folder, "--status", "--json").out)[0] for folder in ("alone", "together")]
        self.assertEqual(*((point["id"], point["status"]) for point in status))

    def test_a_point_of_a_killed_parent_is_left_to_its_child(self):
        """The child is told to stop. Until it has, its point is neither started twice nor called failed."""
        name = self.write(sweep_test.LONG)
        launcher = self.folder / "launch.sh"
        launcher.write_text('#!/bin/sh\ntrap "" TERM\n"$@"\nexec sleep 1\n')
        launcher.chmod(0o755)
        isolated = ["--isolate", "process", "--grace", "0s", "trace.synthetic.n_requests=48", "trace.synthetic.prompt_tokens=512"]
        for child in ([], ["--launch", "./launch.sh"]):
            job = self.start_until_point(name, *isolated, *child)
            job.kill()
            program.finish(job)
            if child:
                done = program.run("sweep", name, "--out", "cut", "--resume", *isolated, folder=self.folder)
                self.assertEqual((done.code, "is left out: another process works on it" in done.err), (75, True), done)
            deadline = time.monotonic() + 30
            while '"status": "running"' in self.run_ok("sweep", "cut", "--status", "--json").out and time.monotonic() < deadline:
                time.sleep(0.05)
            status = json.loads(self.run_ok("sweep", "cut", "--status", "--json").out)
            self.assertEqual([p["status"] for p in status].count("failed"), 0, status)
            self.run_ok("sweep", name, "--out", "cut", "--resume", *isolated)
            shutil.rmtree(self.folder / "cut")

    def test_limits(self):
        name = self.write(sweep_test.LONG)
        done = program.run("sweep", name, "trace.synthetic.n_requests=96", "--point-limit", "0.01s", "--fail-fast", folder=self.folder)
        self.assertEqual(done.code, 1, done)
        self.assertIn("not finished after 0.01 s (--point-limit)", done.err)
        self.assertIn("1 of 4 points: 0 ok, 1 failed", done.out)
        done = program.run("sweep", name, "--out", "short", "--budget", "0.000000001s", folder=self.folder)
        self.assertEqual(done.code, 75, done)
        self.assertIn("interrupted (budget of time): 4 of 4 points are left", done.err)
        self.jobs_ask_for_enough_memory()
        self.assertIn("--grace: 'soon' is no duration", self.refuse("sweep", name, "--out", "x", "--grace", "soon"))

    def jobs_ask_for_enough_memory(self):
        """A sweep is not submitted where a job would get less memory than a point is predicted to need; nothing is left behind."""
        submit = ["sweep", self.write(NEEDS, "needs.yaml"), "--out", "queue", "--submit", "2", "--site", "site.sh"]
        plans = json.loads(self.run_ok(*submit[:2], "--dry-run", "--json").out)
        largest = max(p["job_bytes"] for p in plans)
        self.write("nodes=2\ntasks_per_node=2\nmemory_per_node=300M\n", "site.sh")
        words = self.refuse(*submit)
        self.assertRegex(words, r"site.sh: error: point 1 \w+ needs [\d.]+ MiB on a node, memory_per_node is 300.00 MiB \(set ")
        needed = int(re.search(r"set memory_per_node=(\d+)M or nodes=4, or", words)[1])
        self.assertAlmostEqual(needed, largest * 1.15 / 2 / 2**20 + 128, delta=2)  # half of the ranks and two processes
        for text in (f"nodes=2\ntasks_per_node=2\nsbatch_options=(--mem={needed + 1})\n", "nodes=1\ntasks_per_node=2\n"):
            self.write(text, "site.sh")
            done = program.run(*submit, folder=self.folder, PATH=self.without_slurm())
            self.assertEqual(done.code, 3, done)
            self.assertIn("no Slurm", done.err)
            self.assertEqual("memory is not compared: site.sh names no memory_per_node" in done.out, "mem" not in text)
            self.assertFalse((self.folder / "queue").exists())
        self.write("nodes=many\n", "site.sh")
        self.assertRegex(self.refuse(*submit), "nodes=many is no whole number from 1.*\n.*is no site file")
        self.assertIn("nothing.sh: error: no such file", self.refuse(*submit[:-1], "nothing.sh"))
        for arguments in (["--submit", "2", "--part", "0/2"], ["--submit", "2", "--grace", "9s"], ["--site", "site.sh"], ["--at-once", "1"]):
            self.assertRegex(self.refuse(*submit[:2], *arguments), "excludes|requires")

    def test_submitted_points_are_those_of_the_jobs_processes(self):
        name = self.write(sweep_test.SWEEP.replace("cluster: {ranks: 4}", "batch: {load: concurrency(4)}").replace("[lru, fifo, clock]", "[lru]")
                          .replace("page.slots: [8, 16]", "cases: [{page.slots: 8}, {cluster.ranks: 1}, {cluster.ranks: 3}]"))
        self.write("tasks_per_node=2\nmemory_per_node=4G\n", "site.sh")
        submit = ["sweep", name, "--submit", "2", "--site", "site.sh"]
        plans = [json.loads(program.run(*arguments, "--dry-run", "--json", ranks=ranks, folder=self.folder).out)
                 for arguments, ranks in ((submit, None), (submit[:2], 2))]
        self.assertEqual(len(plans[0]), 12)
        self.assertEqual(*([p["id"] for p in plan] for plan in plans))
        done = program.run(*submit, folder=self.folder, PATH=self.without_slurm())
        self.assertEqual(done.code, 3, done)
        self.assertRegex(done.out, r"4 of 12 points cannot run in jobs of 2 processes and will count as failed; the first is point 1 \w+: .*logical ranks")

    def without_slurm(self):
        """A PATH with all programs but those of Slurm."""
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        for name in ("bash", "numfmt", "realpath", "dirname", "basename", "env"):
            if not (folder / name).exists():
                (folder / name).symlink_to(shutil.which(name))
        return str(folder)


if __name__ == "__main__":
    unittest.main()
