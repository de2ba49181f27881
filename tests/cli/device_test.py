"""Where there is no GPU, the program says so and what to do; where there is one, it runs on it."""
import json
import os
import subprocess
import sys
import unittest

import program

RECORDER = None  # stands in for a profiler, where the build has CUDA


class Device(program.ProgramTest):
    def setUp(self):
        super().setUp()
        self.doctor = self.run_ok("doctor").out
        ok = [line.split()[1:3] for line in self.doctor.splitlines() if line.startswith("ok ")]
        self.there = ["GPU", "driver"] in ok and ["CUDA", "build"] in ok

    def test_doctor_tells_build_driver_and_nccl(self):
        for topic in ("CUDA build", "GPU driver", "NCCL", "cuBLAS"):
            self.assertRegex(self.doctor, rf"(?m)^(ok|warn|missing) +{topic} +\S")

    def test_missing_device_is_exit_code_3(self):
        if self.there:
            self.skipTest("this machine has a GPU")
        config = program.SOURCE / "configs/examples/local_baseline.yaml"
        for ranks in (None, 2):
            done = program.run("run", config, "backend=cuda", "--out", "out.h5", ranks=ranks, folder=self.folder)
            self.assertEqual(done.code, 3, done)
            self.assertRegex(done.err, r"error: backend 'cuda': .*(driver|GPU|CUDA)")
            self.assertIn("backend host", done.err)
            self.assertEqual(done.err.count("error:"), 1, done)

    def test_ranges_of_a_profiler_carry_the_names_of_phases(self):
        if RECORDER is None:
            self.skipTest("this build has no CUDA")
        log = self.folder / "ranges"
        small = ("trace.synthetic.n_requests=2", "trace.synthetic.prompt_tokens=32", "trace.synthetic.output_tokens=4", "trace.layers=[1-2]")
        config = program.SOURCE / "configs/examples/local_baseline.yaml"
        self.run_ok("run", config, *small, "--out", "out.h5", NVTX_INJECTION64_PATH=RECORDER, MOEKV_NVTX_LOG=str(log))
        begun = {name: int(n) for name, n in (line.split() for line in log.read_text().splitlines())}
        ended = begun.pop("(ended)")
        self.assertEqual(sum(begun.values()), ended)
        steps = int(program.moekv_results.load(str(self.folder / "out.h5")).record("step")["n_steps"].sum())
        self.assertGreater(steps, 4)
        self.assertEqual(begun["step"], steps)
        for name in ("place", "dispatch", "admit", "attend", "combine"):
            self.assertEqual(begun[name], 2 * steps, name)
        self.assertEqual(begun["touch"], 3 * steps)  # of each layer, and of the step
        self.assertLessEqual({"read", "route", "generate", "model", "record"}, set(begun))

    def test_steps_to_profile_want_a_gpu(self):
        config = program.SOURCE / "configs/examples/local_baseline.yaml"
        for command in ("run", "score"):
            for steps, word in (("3", "not A:B"), ("5:5", "not A:B"), ("1:2x", "not A:B"), ("-1:2", "not A:B"), ("1:2", "backend host uses none")):
                if command == "score" and word != "backend host uses none":
                    continue
                extra = [] if command == "run" else [f"model.path={program.SOURCE}/configs/models/tinymoe.model.h5"]
                base = config if command == "run" else program.SOURCE / "configs/examples/score.yaml"
                done = program.run(command, base, *extra, f"--profile-steps={steps}", "--out", "out.h5", folder=self.folder)
                self.assertEqual(done.code, 2, done)
                self.assertIn(word, done.err)
        if not self.there:
            done = program.run("run", config, "backend=cuda", "--profile-steps=1:2", "--out", "out.h5", folder=self.folder)
            self.assertEqual(done.code, 3, done)

    def test_check_of_the_gpu_says_that_there_is_none(self):
        if self.there:
            self.skipTest("this machine has a GPU")
        build = program.Path(program.PROGRAM).parent
        done = subprocess.run([program.SOURCE / "scripts/gpu_check.sh", "--build", build, "--out", self.folder], capture_output=True, text=True, timeout=60,
                              check=False)
        self.assertEqual(done.returncode, 3, done)
        self.assertIn("there is no GPU to check here", done.stdout)


STAND_IN = """#!/usr/bin/env bash
if [ "$1" = doctor ]; then
  printf 'ok      %s\\n' 'CUDA build    "quoted" \\ text' 'GPU driver    none' 'cuBLAS        none' 'NCCL          none'
  exit 0
fi
arguments=()
for a; do
  case $a in backend=cuda) a=backend=host ;; transport=ipc) a=transport=mpi ;; esac
  arguments+=("$a")
done
exec "$MOEKV_PROGRAM" "${arguments[@]}"
"""
OTHERS = {
    "tests/parity_device": 'echo "$@"',
    "tests/parity_replay": 'exit "${PARITY_FAILS:-0}"',
    "experiments/bench/gpu_bench": "echo '{\"rounds\": 3}' >\"$2\"; echo table of the benchmark",
    "compute-sanitizer": 'exec "$5" "$6"',
}


class Check(program.ProgramTest):
    """The whole of gpu_check.sh, with programs that stand in for those of a machine with a GPU: its control flow, table, file and exit codes."""

    def setUp(self):
        super().setUp()
        for name, text in {"moekv": STAND_IN, **{name: f"#!/usr/bin/env bash\n{text}\n" for name, text in OTHERS.items()}}.items():
            path = self.folder / "build" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)

    def check(self, *arguments, **environment):
        environment = {**os.environ, "MOEKV_PROGRAM": program.PROGRAM, "PATH": f"{self.folder}/build:{os.environ['PATH']}", **environment}
        done = subprocess.run([program.SOURCE / "scripts/gpu_check.sh", "--build", self.folder / "build", "--out", self.folder / "out", *arguments],
                              capture_output=True, text=True, timeout=250, check=False, env=environment)
        return done, json.loads((self.folder / "out/gpu_check.json").read_text())

    def test_all_good(self):
        done, report = self.check("--quick")
        self.assertEqual(done.returncode, 0, done)
        self.assertEqual({step["verdict"] for step in report["steps"]}, {"ok"}, report["steps"])
        names = [step["name"] for step in report["steps"]]
        for part in ("parity_device", "sanitizer racecheck", "gpu_bench", "replay qwen3_32k: same decisions", "2 processes by ipc: same decisions",
                     "score on 2 processes: same decisions"):
            self.assertIn(part, names)
        self.assertEqual(report["bench"], {"rounds": 3})
        self.assertEqual(len(report["results"]), 6 + 2 + 3)
        self.assertIn('CUDA build    "quoted" \\ text', report["doctor"][0])
        self.assertIn("table of the benchmark", done.stdout)
        self.assertIn("all of it", done.stdout.splitlines()[-1])

    def test_what_fails_or_has_no_time_is_told(self):
        done, report = self.check("--limit", "0", PARITY_FAILS="1")
        self.assertEqual(done.returncode, 1, done)
        self.assertEqual({step["verdict"] for step in report["steps"]}, {"FAILED"})
        self.assertEqual(report["results"], {})
        self.assertEqual(self.check("--limit")[0].returncode, 2)

    def test_a_step_that_fails_fails_all(self):
        done, report = self.check("--quick", "--limit", "1", PARITY_FAILS="1")
        self.assertEqual(done.returncode, 1, done)
        self.assertIn("FAILED", {step["verdict"] for step in report["steps"] if step["name"] == "parity_replay"})


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].endswith(".so"):
        RECORDER = sys.argv.pop(1)
    unittest.main()
