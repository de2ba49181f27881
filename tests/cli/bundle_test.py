"""The relocatable bundle: made from the build, unpacked elsewhere, run where the machine's own Open MPI is hidden."""
import os
import subprocess
import tarfile
import unittest
from pathlib import Path

import program

# Empty folders and files over what the bundle brings itself; only root may mount, and only where namespaces are allowed.
HIDE = """mount --make-rprivate / || exit 77
for path in /usr/lib/*/openmpi /usr/lib/*/pmix2 /etc/openmpi /usr/share/openmpi; do [ ! -d "$path" ] || mount -t tmpfs none "$path" || exit 77; done
for path in /usr/lib/*/libmpi.so.* /usr/lib/*/libopen-*.so.* /usr/lib/*/libpmix.so.* /usr/bin/orterun /usr/bin/orted; do
  [ ! -e "$path" ] || mount --bind /dev/null "$path" || exit 77
done
"""
JOB = """. scripts/mpi_env.sh
bin/moekv doctor && bin/moekv run configs/quickstart.yaml trace.max_requests=1 --quiet --out one.h5 &&
bin/mpirun -n 2 bin/moekv run configs/quickstart.yaml trace.max_requests=1 --quiet --out two.h5 && bin/moekv diff --decisions one.h5 two.h5 || exit 1
[ "$(scripts/slurm/submit.sh scripts/slurm/site.sh bin/moekv shape)" = "1 1 0 0" ] || exit 1
scripts/gpu_check.sh --out check
[ $? -eq 3 ] || grep -q '^ok *GPU driver' <(bin/moekv doctor)
"""


class Bundle(program.ProgramTest):
    def test_runs_elsewhere_without_the_machines_mpi(self):
        archive = self.folder / "bundle.tar.gz"
        fast = {**os.environ, "GZIP": "-1"}  # half of this test's time would be compression
        made = subprocess.run([program.SOURCE / "scripts/bundle.sh", Path(program.PROGRAM).parent, archive], env=fast, capture_output=True,
                              text=True, timeout=100, check=False)
        self.assertEqual(made.returncode, 0, made)
        if b"__asan_init" not in Path(program.PROGRAM).read_bytes():  # sanitizers make a program twice as large
            self.assertLess(archive.stat().st_size, 64 << 20)
        with tarfile.open(archive) as tar:
            tar.extractall(self.folder / "another place")
        root = self.folder / "another place/moekv"
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "LD_LIBRARY_PATH"))}
        for launch in (["unshare", "-m", "bash", "-c", HIDE + JOB], ["bash", "-c", JOB]):
            try:
                done = subprocess.run(launch, cwd=root, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False)
            except FileNotFoundError:
                continue
            if done.returncode == 0 or "doctor" in done.stderr or done.stdout:
                break
        self.assertEqual(done.returncode, 0, done)
        self.assertIn("same decisions", done.stdout)
        self.assertEqual(program.moekv_results.load(str(root / "two.h5")).provenance["n_processes"], 2)


if __name__ == "__main__":
    unittest.main()
