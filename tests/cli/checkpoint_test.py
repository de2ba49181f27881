"""An interrupted point is saved, goes on where it stopped, and ends as if nothing had happened; what cannot be used starts again and says so."""
import json
import shutil
import signal
import tempfile
import time
import unittest
from pathlib import Path

import h5py

import program
import sweep_test
from program import moekv_results

# One point of a second or so, with payload, evictions, sealed pages and a router that keeps state.
SWEEP = """
name: one
base:
  model: tinymoe
  trace: {synthetic: {preset: zipf, n_requests: 16, prompt_tokens: 64, output_tokens: 96}}
  cluster: {ranks: 4}
  placement: {layout: expert}
  page: {slots: 16}
  probe: {samples: 32}
  compression: {codec: int8_token}
  batch: {load: concurrency(8)}
  eviction: {policy: h2o.sum, protect: {sinks: 0, recent: 4}}
axes:
  - eviction.budget: [40%]
"""


class Checkpoint(program.ProgramTest):
    @classmethod
    def setUpClass(cls):
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        folder = Path(holder.name)
        (folder / "one.yaml").write_text(SWEEP)
        for arguments in (("sweep", "one.yaml", "--out", "whole"), ("merge", "whole", "--out", "whole.h5")):
            done = program.run(*arguments, folder=folder)
            if done.code != 0:
                raise AssertionError(done)
        cls.whole = folder / "whole.h5"
        cls.seconds = moekv_results.load_sweep(cls.whole).wall_time[0]

    def setUp(self):
        super().setUp()
        (self.folder / "one.yaml").write_text(SWEEP)

    def events(self, folder, kind):
        lines = "".join(path.read_text() for path in (self.folder / folder).glob("journal/*.jsonl")).splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def saved(self, folder):
        return sorted(path.name.split(".", 1)[1] for path in (self.folder / folder).glob("points/*.checkpoint*"))

    def stop(self, folder, sent, ranks, after_s):
        """A sweep that is told to stop so long after it began the point."""
        starts = len(self.events(folder, "start"))
        job = program.start(["sweep", "one.yaml", "--out", folder, "--resume", "--grace", "0s"], ranks=ranks, folder=self.folder)
        deadline = time.monotonic() + 30
        while len(self.events(folder, "start")) == starts and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(after_s)
        job.send_signal(sent)
        return program.finish(job)

    def interrupt(self, folder, sent=signal.SIGTERM, ranks=None):
        """Stops the point of the sweep when a part of it is done, sooner where that comes too late. Returns the step at which it was saved."""
        before = self.folder / "before"
        for part in (4, 8, 16, 32):
            shutil.rmtree(before, ignore_errors=True)
            if (self.folder / folder).exists():
                shutil.copytree(self.folder / folder, before)
            done = self.stop(folder, sent, ranks, self.seconds / part)
            if done.code != 0:
                break
            shutil.rmtree(self.folder / folder)
            if before.exists():
                before.rename(self.folder / folder)
        self.assertEqual(done.code, 75, done)
        event = self.events(folder, "interrupted")[-1]
        self.assertEqual(event["reason"], sent.name)
        self.assertGreater(event["saved_step"], 0)
        self.assertEqual(self.saved(folder), [f"{event['saved_step']}.{p}.checkpoint" for p in range(ranks or 1)] + ["checkpoint"])
        return event["saved_step"]

    def finish(self, folder, ranks=None):
        """Goes on with the sweep to its end: the numbers are those of the uninterrupted one. Returns the event of the end and what was said."""
        done = program.run("sweep", "one.yaml", "--out", folder, "--resume", ranks=ranks, folder=self.folder)
        self.assertEqual(done.code, 0, done)
        self.assertEqual(self.saved(folder), [])
        self.run_ok("merge", folder, "--out", folder + ".h5")
        self.run_ok("diff", self.whole, folder + ".h5")
        sweep_test.Sweeps.assert_same_numbers(self, self.whole, folder + ".h5")
        return self.events(folder, "ok")[-1], done.err

    def notes(self, path):
        with h5py.File(self.folder / path) as file:
            return file["notes"].asstr()[0]

    def test_goes_on_where_it_stopped(self):
        first = self.interrupt("cut")
        self.assertIn(f"saved at step {first}", self.run_ok("sweep", "cut", "--status").out)
        second = self.interrupt("cut")
        self.assertGreater(second, first)
        self.assertEqual(self.events("cut", "interrupted")[-1]["resumed_step"], first)
        end, words = self.finish("cut")
        self.assertEqual((end["resumed_step"], words), (second, ""))
        self.assertIn(f"resumed at step {first}, {second}", self.notes("cut.h5"))

    def test_several_processes(self):
        step = self.interrupt("two", signal.SIGUSR1, ranks=2)
        end, _ = self.finish("two", ranks=2)
        self.assertEqual(end["resumed_step"], step)
        self.interrupt("less", signal.SIGUSR1, ranks=2)
        end, words = self.finish("less")
        self.assertNotIn("resumed_step", end)
        self.assertIn("was written by 2 processes, this job has 1", words)

    def test_what_is_damaged_is_not_used(self):
        self.interrupt("bad")
        part = next((self.folder / "bad").glob("points/*.0.checkpoint"))
        content = bytearray(part.read_bytes())
        content[len(content) // 2] ^= 1
        part.write_bytes(content)
        end, words = self.finish("bad")
        self.assertNotIn("resumed_step", end)
        self.assertRegex(words, r"point \w+ starts again, what was saved of it is of no use: \S+0\.checkpoint: error: is damaged")
        self.assertNotIn("resumed", self.notes("bad.h5"))


if __name__ == "__main__":
    unittest.main()
