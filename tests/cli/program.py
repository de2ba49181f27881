"""The built program as a user starts it, alone or under mpirun, and what every command-line test asks of it."""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path
from types import SimpleNamespace

SOURCE = Path(os.environ.get("MOEKV_SOURCE_DIR", Path(__file__).resolve().parents[2]))
sys.path[:0] = [str(SOURCE / "scripts"), str(SOURCE / "tests/support")]  # for every test that imports this first

import moekv_results  # noqa: E402

PROGRAM = os.environ.get("MOEKV_PROGRAM", str(SOURCE / "build/release/moekv"))
MPIEXEC = os.environ.get("MOEKV_MPIEXEC", "mpirun")
LIMIT_S = 100

# mpirun ends a job whose process failed only one or two seconds later; where that is not the subject, it need not wait.
NO_WAIT = {"OMPI_MCA_odls_base_sigkill_timeout": "0"}

# mpirun's own words when a process ends with an error; they frame ours and are none of it.
LAUNCHER_TEXT = re.compile(r"^-{70,}\n.*?^-{70,}\n|^\[[\w.-]+:\d+\] .*\n", re.S | re.M)


class Finished:
    """Exit code and output of a program that ended."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, LAUNCHER_TEXT.sub("", err)

    def __str__(self):
        return f"exit code {self.code}\nstdout: {self.out[-2000:]}\nstderr: {self.err[-4000:]}"


def command(arguments, ranks=None):
    launcher = [MPIEXEC, "-n", str(ranks)] if ranks else []
    return [*launcher, PROGRAM, *map(str, arguments)]


def start(arguments, ranks=None, folder=None, **environment):
    """A running job in a process group of its own."""
    return subprocess.Popen(command(arguments, ranks), cwd=folder, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(job, limit_s=LIMIT_S):
    """Waits for the job; one that does not end is killed and fails the test."""
    try:
        out, err = job.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        out, err = job.communicate()
        raise AssertionError(f"still running after {limit_s} s\nstdout: {out[-2000:]}\nstderr: {err[-4000:]}") from None
    # A launcher whose processes end at once may warn that it watched one of them for too long (libevent's epoll, in Open MPI 4): not the program's words.
    return Finished(job.returncode, out, re.sub(r"(?m)^\[warn\] Epoll .*\n", "", err))


def run(*arguments, ranks=None, folder=None, limit_s=LIMIT_S, **environment):
    return finish(start(arguments, ranks, folder, **environment), limit_s)


# 256 tokens of the recorded cuts in four of their layers, two requests at once, as settings of a sweep's case. Their gates and layers are the
# recordings', with heads so small that any policy replays them fast on any number of processes.
CUTS = {name: [f"model={{name: small, layers: {{count: {layers}, pattern: [full], dense: {dense}}}, hidden: 64, n_heads: 4, n_kv_heads: 2, head_dim: 16, "
               f"gate: {{n_experts: {experts}, top_k: {top_k}}}}}",
               f"trace={{path: {SOURCE}/configs/traces/{name}.moekv.h5, layers: [{first}-{first + 3}], max_requests: 2, max_output_tokens: 128}}",
               "batch.load=concurrency(2)"]
        for name, layers, dense, experts, top_k, first in (("dsv2lite_esft_cut", 27, [0], 64, 6, 1), ("gptoss20b_cut", 24, [], 32, 4, 0))}


class ProgramTest(unittest.TestCase):
    """A test with an empty folder `self.folder` of its own."""

    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = Path(holder.name)

    def run_ok(self, *arguments, **options):
        done = run(*arguments, folder=self.folder, **options)
        self.assertEqual(done.code, 0, done)
        return done

    def sweep(self, base, cases, ranks=None):
        """Runs a configuration (YAML text) with each of `cases` (name -> list of key=value), all in one job; a broken law fails the test.
        Returns name -> SimpleNamespace(digest, labels, metrics)."""
        lines = "".join(f"    - {{label: {json.dumps(name)}{''.join(', ' + setting.replace('=', ': ', 1) for setting in settings)}}}\n"
                        for name, settings in cases.items())
        name = f"sweep_{len(self.listing())}"
        (self.folder / f"{name}.yaml").write_text("base:\n" + textwrap.indent(base, "  ") + "axes:\n  - cases:\n" + lines)
        halves = 2 if ranks is None and len(cases) > 20 else 1  # one process alone leaves a core idle
        parts = [f"{name}.{half}" for half in range(halves)]
        jobs = [start(["sweep", f"{name}.yaml", "--out", part, "-q", "--part", f"{half}/{halves}"], ranks, self.folder) for half, part in enumerate(parts)]
        for done in [finish(job, 280) for job in jobs]:
            self.assertEqual(done.code, 0, done)
        self.run_ok("merge", *parts, "--out", f"{name}.h5", "--without-records")
        merged = moekv_results.load_sweep(self.folder / f"{name}.h5")
        return {label: SimpleNamespace(digest=merged.digests[i], labels=merged.labels[i],
                                       metrics={metric: values[i] for metric, values in merged.metrics.items()})
                for i, label in enumerate(merged.label)}

    def refuse(self, *arguments, ranks=None, **options):
        """Bad input: exit 2, a message on stderr, nothing on stdout, no new file. Returns the message."""
        before = self.listing()
        done = run(*arguments, ranks=ranks, folder=self.folder, **NO_WAIT, **options)
        self.assertEqual(done.code, 2, done)
        self.assertEqual(done.out, "", done)
        self.assertRegex(done.err, r"(?m)^.+: error: .+", str(done))
        self.assertNotIn("internal error", done.err)
        self.assertEqual(self.listing(), before, "a refused command left a file")
        return done.err

    def listing(self):
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))
