"""How a sweep is stopped, gone on with, isolated and judged: signals, limits, crashes, repeats, reports, and results that are run again."""
import json
import os
import re
import shutil
import signal
import time
import unittest

import h5py

import program
import sweep_test

# Two points of the six take long enough to be told to stop.
LONG = sweep_test.SWEEP.replace("[lru, fifo, clock]", "[lru, fifo]").replace("{range: {from: 20, to: 80, step: 20, unit: \"%\"}}", "[30%]")
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
REPORT = """
name: judged
base:
  model: tinymoe
  trace: {synthetic: {preset: zipf, n_requests: 5, prompt_tokens: 48, output_tokens: 16}}
  cluster: {ranks: 2}
  placement: {layout: local}
  read: {scope: all}
  page: {slots: 8}
  probe: {samples: 24}
  eviction: {protect: {sinks: 0, recent: 4}}
axes:
  - eviction.policy: [h2o.sum, streaming]
  - eviction.budget: [30%, 60%]
  - cluster.network: [h200-ndr400, host-shm]
expect:
  - {claim: more budget evicts less, metric: evictions, of: {eviction.budget: 60%}, versus: {eviction.budget: 30%}, is: less, by: 10%}
  - {claim: h2o keeps other mass than streaming, metric: attn_mass_kept_mean, of: {eviction.policy: h2o.sum}, versus: {eviction.policy: streaming}, is: different}
  - {claim: the network decides nothing, metric: evictions, of: {cluster.network: h200-ndr400}, versus: {cluster.network: host-shm}, is: equal}
"""


class Control(program.ProgramTest):
    def write(self, text, name="small.yaml"):
        (self.folder / name).write_text(text)
        return name

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
        name = self.write(LONG)
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
        name = self.write(REPORT)
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

    def test_merged_sweeps_keep_their_claims_and_settings(self):
        """Two sweeps of one name with a point in common: each claim is judged as it is in its own sweep."""
        base = "base: {model: tinymoe, backend: count, trace: {synthetic: {preset: zipf, n_requests: 4, prompt_tokens: 40, output_tokens: 16}}, page: {slots: 8}, eviction: {policy: lru, budget: 30%, protect: {sinks: 0, recent: 4}}}\n"
        (self.folder / "a").mkdir()
        (self.folder / "b").mkdir()
        (self.folder / "a/sweep.yaml").write_text(base + "axes: [{metrics.per_step: [false, true]}, {page.slots: [8, 16]}]\nset: {cluster.ranks: 4}\nexpect: [{claim: records, metric: evictions, of: {metrics.per_step: true}, versus: {metrics.per_step: false}, is: equal}]\n")
        (self.folder / "b/sweep.yaml").write_text(base + "axes: [{cluster.ranks: [4, 2]}]\nexpect: [{claim: ranks, metric: rank_peak_bytes_max, of: {cluster.ranks: 4}, versus: {cluster.ranks: 2}, is: different}]\n")
        for folder in ("a", "b"):
            self.run_ok("sweep", f"{folder}/sweep.yaml", "--out", f"{folder}.sweep")
        alone = []
        for inputs in (["a.sweep"], ["b.sweep"], ["a.sweep", "b.sweep"]):
            program.run("merge", *inputs, "--out", "all.h5", folder=self.folder)
            alone.append(re.findall("(?m)^(?:holds|FAILS): .*", program.run("report", "all.h5", folder=self.folder).out))
        self.assertEqual([len(lines) for lines in alone], [1, 1, 2])
        self.assertEqual(sorted(alone[0] + alone[1]), sorted(alone[2]))

    def test_signals_end_a_sweep_resumably(self):
        name = self.write(LONG)
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
        name = self.write(LONG)
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

    def run_status(self, folder):
        return self.run_ok("sweep", folder, "--status").out

    def test_isolated_points_survive_a_crash_of_one(self):
        name = self.write(LONG)
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

    def test_limits(self):
        name = self.write(LONG)
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
            shutil.rmtree(self.folder / "queue")
        self.write("nodes=many\n", "site.sh")
        self.assertIn("is no site file", self.refuse(*submit))
        self.assertIn("nothing.sh: error: no such file", self.refuse(*submit[:-1], "nothing.sh"))

    def without_slurm(self):
        """A PATH with all programs but those of Slurm."""
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        for name in ("bash", "numfmt", "realpath", "dirname", "basename", "env"):
            if not (folder / name).exists():
                (folder / name).symlink_to(shutil.which(name))
        return str(folder)

    def test_report(self):
        name = self.write(REPORT, "judged.yaml")
        self.run_ok("sweep", name)
        self.run_ok("merge", "judged.sweep", "--out", "judged.h5")
        text = self.run_ok("report", "judged.h5").out
        self.assertIn("holds: more budget evicts less", text)
        self.assertIn("cluster.network: 0 of", text)
        self.assertIn("NO EFFECT", text)
        report = json.loads(self.run_ok("report", "judged.h5", "--json", "--by", "eviction.policy", "--baseline", "streaming", "--metric", "attn_mass_kept_mean").out)
        effects = {entry["key"]: entry for entry in report["effects"]}
        self.assertEqual([effects[key]["no_effect"] for key in ("eviction.policy", "eviction.budget", "cluster.network")], [False, False, True])
        mass = report["comparisons"][0]
        self.assertEqual((mass["resampled"], mass["pairs"], mass["verdict"]), ("requests", 4, "higher"))
        self.assertLessEqual(mass["low"], mass["difference"])
        self.assertGreaterEqual(mass["high"], mass["difference"])
        self.same_queries(mass)
        self.assertIn("judged: 8 points", self.run_ok("show", "judged.h5").out)
        self.assertIn("holds 8 points, not one", self.refuse("rerun", "judged.h5"))
        self.wrong_expectations(name)

    def same_queries(self, mass):
        """h2o.sum asks with all prompt tokens, streaming with none: fidelity is that of the queries of both."""
        merged = program.moekv_results.load_sweep(self.folder / "judged.h5")
        n_only = n_both = 0
        for a in range(merged.n):
            for b in range(merged.n):
                pair = [merged.settings[key][i] for key in ("eviction.budget", "cluster.network") for i in (a, b)]
                if merged.settings["eviction.policy"][a] != "h2o.sum" or merged.settings["eviction.policy"][b] != "streaming" or pair[0::2] != pair[1::2]:
                    continue
                rows = [{(r, l, p): kept for r, l, p, kept in zip(*(probe[c] for c in ("request", "layer", "position", "attn_mass_kept")))}
                        for probe in (merged.record("probe", point=i) for i in (a, b))]
                both = rows[0].keys() & rows[1].keys()
                n_both, n_only = n_both + len(both), n_only + len(rows[0].keys() ^ rows[1].keys())
        self.assertGreater(n_both, 8)
        self.assertEqual(mass["unmatched"], n_only)
        self.assertGreater(n_only, 0)
        text = self.run_ok("report", "judged.h5", "--by", "eviction.policy", "--baseline", "streaming", "--metric", "attn_mass_kept_mean", "--metric", "hit_ratio").out
        self.assertIn(f"{n_only} probed queries that one side alone measured left out", text)
        self.assertRegex(text, "hit_ratio .*4 pairs answer different numbers of queries: set prefill.queries")

    def wrong_expectations(self, name):
        wrong = REPORT.replace("is: less, by: 10%", "is: greater")
        with h5py.File(self.folder / "judged.h5", "a") as file:
            file.attrs["sweep_yaml"] = wrong
        done = program.run("report", "judged.h5", folder=self.folder)
        self.assertEqual(done.code, 1, done)
        self.assertIn("FAILS: more budget evicts less", done.out)
        for arguments, words in ((("--by", "eviction.policy", "--metric", "evictons"), "did you mean 'evictions'"),
                                 (("--by", "eviction.polcy", "--metric", "evictions"), "known: label, eviction.policy, eviction.budget"),
                                 (("--by", "eviction.policy", "--metric", "evictions", "--baseline", "lru"), "--baseline: no point has eviction.policy=lru")):
            done = program.run("report", "judged.h5", *arguments, folder=self.folder)
            self.assertEqual(done.code, 2, done)
            self.assertIn(words, done.err)
        self.write(REPORT.replace("metric: evictions", "metric: evictons", 1), name)
        self.run_ok("sweep", name, "--extend", "-q")
        self.run_ok("merge", "judged.sweep", "--out", "judged.h5")
        done = program.run("report", "judged.h5", folder=self.folder)
        self.assertEqual(done.code, 2, "the others are judged all the same")
        self.assertIn("holds: the network decides nothing", done.out)
        self.assertIn("is: unknown value 'larger'", self.refuse("sweep", self.write(REPORT.replace("is: less", "is: larger")), "--list"))

    def test_rerun(self):
        name = self.write(LONG)
        self.run_ok("sweep", name, "--only", "0-1")
        point = json.loads(self.run_ok("sweep", "small.sweep", "--status", "--json").out)[1]["id"]
        text = self.run_ok("rerun", "small.sweep", "--point", point[:6], "--out", "again.h5").out
        self.assertIn("same decisions and counters", text)
        self.assertRegex(text, r"counted +\d+ +0 ")
        text = self.run_ok("rerun", "again.h5", ranks=2).out
        self.assertIn("decisions equal", text)
        with h5py.File(self.folder / "again.h5", "a") as file:
            file["record/step/n_hit"][0] += 1
            file["digest"][0] = "0" * 32
        done = program.run("rerun", "again.h5", folder=self.folder)
        self.assertEqual(done.code, 1, done)
        self.assertIn("decisions differ", done.out)
        self.assertIn("n_hit", done.out)
        with h5py.File(self.folder / "again.h5", "a") as file:
            file["provenance"].attrs["trace_digest"] = "another"
        self.assertIn("is not the trace of this result", self.refuse("rerun", "again.h5"))


if __name__ == "__main__":
    unittest.main()
