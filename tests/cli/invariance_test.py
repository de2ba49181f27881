"""The same specification decides the same on any number of processes and threads; different seeds are told apart."""
import unittest

import h5py
import numpy as np

import program

CONFIG = program.SOURCE / "configs/quickstart.yaml"
LAYERS = ["trace.layers=[1-2]"]  # two of the four: the key of a layer's placement is the routing of the one before
FEW = ["trace.max_requests=2", *LAYERS]


def counted(path):
    """Every dataset that is counted (not timed), by name."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and item.attrs.get("claim_class") == "counted":
            found[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


class Invariance(program.ProgramTest):
    def setUp(self):
        super().setUp()
        self.numbers = {}

    def numbers_of(self, path):
        if path not in self.numbers:
            self.numbers[path] = counted(path)
        return self.numbers[path]

    def replay(self, name, *overrides, ranks=None, threads=1):
        self.run_ok("run", CONFIG, *overrides, "--out", name, ranks=ranks, OMP_NUM_THREADS=str(threads))
        return self.folder / name

    def expect_same(self, reference, other):
        done = program.run("diff", reference, other, folder=self.folder)
        self.assertEqual(done.code, 0, done)
        mine, theirs = self.numbers_of(reference), self.numbers_of(other)
        self.assertGreater(len(mine), 20)
        self.assertEqual(mine.keys(), theirs.keys())
        for name, values in mine.items():
            np.testing.assert_array_equal(values, theirs[name], err_msg=name)

    def test_processes(self):
        reference = self.replay("alone.h5", *LAYERS, threads=2)
        for ranks in (2, 4):
            with self.subTest(processes=ranks):
                self.expect_same(reference, self.replay(f"n{ranks}.h5", *LAYERS, ranks=ranks))

    def test_threads_and_another_seed(self):
        reference = self.replay("alone.h5", *FEW)
        for ranks, threads in ((1, 5), (2, 3)):
            with self.subTest(processes=ranks, threads=threads):
                self.expect_same(reference, self.replay(f"n{ranks}t{threads}.h5", *FEW, ranks=ranks, threads=threads))
        other = self.replay("b.h5", *FEW, "seed=77", "eviction.policy=random")
        done = program.run("diff", "--decisions", reference, other, folder=self.folder)
        self.assertEqual(done.code, 1, done)
        self.assertRegex(done.out, r"(?i)first .*step", str(done))


if __name__ == "__main__":
    unittest.main()
