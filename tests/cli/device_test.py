"""Where there is no GPU, the program says so and what to do; where there is one, it runs on it."""
import subprocess
import unittest

import program


class Device(program.ProgramTest):
    def setUp(self):
        super().setUp()
        self.doctor = self.run_ok("doctor").out
        ok = [line.split()[1:3] for line in self.doctor.splitlines() if line.startswith("ok ")]
        self.there = ["GPU", "driver"] in ok and ["CUDA", "build"] in ok

    def test_doctor_tells_build_driver_and_nccl(self):
        for topic in ("CUDA build", "GPU driver", "NCCL"):
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

    def test_check_of_the_gpu_says_that_there_is_none(self):
        if self.there:
            self.skipTest("this machine has a GPU")
        build = program.Path(program.PROGRAM).parent
        done = subprocess.run([program.SOURCE / "scripts/gpu_check.sh", "--build", build, "--out", self.folder], capture_output=True, text=True, timeout=60,
                              check=False)
        self.assertEqual(done.returncode, 3, done)
        self.assertIn("there is no GPU to check here", done.stdout)


if __name__ == "__main__":
    unittest.main()
