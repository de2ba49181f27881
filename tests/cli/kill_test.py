"""kill -9 of any rank at any moment: the job ends within seconds, and no half-written file is ever taken for a result."""
import os
import random
import signal
import time
import unittest
from pathlib import Path

import h5py

import program

RANKS = 4
END_WITHIN_S = 10
KILLS = 6
EARLY_KILLS = 12
RUN = ["run", program.SOURCE / "configs/quickstart.yaml", "trace.layers=[1-2]", "--out", "out.h5"]


def rank_processes(mpirun_pid):
    """Process ids of the ranks by rank, as far as they have started."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or os.readlink(entry / "exe") != os.path.realpath(program.PROGRAM):
                continue
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            variables = dict(item.partition("=")[::2] for item in (entry / "environ").read_text(errors="replace").split("\0"))
        except OSError:
            continue
        if parent == mpirun_pid and "OMPI_COMM_WORLD_RANK" in variables:
            found[int(variables["OMPI_COMM_WORLD_RANK"])] = int(entry.name)
    return found


class Kill(program.ProgramTest):
    def is_complete(self, path):
        """A file under the name of a result opens, says that the run was completed, and the program itself can show it."""
        with h5py.File(path) as file:
            self.assertEqual(file["status"].attrs["flag_meanings"].split()[file["status"][0]], "ok")
        self.run_ok("show", path)

    def kill_one(self, rank, after_s, **environment):
        """Kills `rank` of a fresh run `after_s` after the ranks exist. Returns the finished job, or None where it ended before."""
        job = program.start(RUN, ranks=RANKS, folder=self.folder, OMP_NUM_THREADS="1", **environment)
        deadline = time.monotonic() + 30
        while len(rank_processes(job.pid)) < RANKS and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(after_s)
        victim = rank_processes(job.pid).get(rank)
        if victim is None:
            program.finish(job)
            return None
        os.kill(victim, signal.SIGKILL)
        return program.finish(job, END_WITHIN_S)

    def test_while_mpi_starts(self):
        """The first handshake with mpirun, where Open MPI 4.1's mpirun can hang with nobody left."""
        moments = random.Random(20240301)
        for attempt in range(EARLY_KILLS):
            after_s = moments.random() * 0.02
            with self.subTest(attempt=attempt, after_s=round(after_s, 4)):
                self.kill_one(attempt % RANKS, after_s, **(program.NO_WAIT if attempt % 3 else {}))
                for path in self.folder.rglob("*.h5"):
                    self.is_complete(path)
                    path.unlink()

    def test_random_moments(self):
        start = time.monotonic()
        self.run_ok(*RUN, ranks=RANKS, OMP_NUM_THREADS="1")
        horizon_s = time.monotonic() - start
        self.is_complete(self.folder / "out.h5")
        (self.folder / "out.h5").unlink()
        moments = random.Random(20240229)
        killed = attempt = 0
        while killed < KILLS and attempt < 5 * KILLS:
            rank, after_s = attempt % RANKS, moments.random() * horizon_s
            attempt += 1
            with self.subTest(rank=rank, after_s=round(after_s, 3)):
                done = self.kill_one(rank, after_s)
                if done is not None and done.code != 0:
                    killed += 1
                else:
                    horizon_s *= 0.8  # the run was faster than the one that was timed
                for path in self.folder.rglob("*.h5"):
                    self.is_complete(path)
                    path.unlink()
        self.assertEqual(killed, KILLS, "the kills came too late to test anything")
        self.run_ok(*RUN, ranks=RANKS, OMP_NUM_THREADS="1")
        self.is_complete(self.folder / "out.h5")
        self.assertEqual(self.listing(), ["out.h5"], "the remains of killed runs are cleaned up by the next one")


if __name__ == "__main__":
    unittest.main()
