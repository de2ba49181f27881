"""`moekv trace generate` and `trace stats` as a user runs them: files that h5py reads, statistics on screen, as JSON and in the file, bad input."""
import json
import math
import unittest

import h5py
import numpy as np

import program

SMALL = ("--requests", 3, "--prompt-tokens", 90, "--output-tokens", 10)


class Generate(program.ProgramTest):
    def test_model_by_name(self):
        self.run_ok("trace", "generate", "-o", "a.moekv.h5", "--preset", "gptoss", "--model", "gpt-oss-20b", *SMALL)
        with h5py.File(self.folder / "a.moekv.h5") as file:
            self.assertEqual(file["routing/expert_ids"].shape, (300, 24, 4))
            self.assertEqual(file["requests/prompt_len"][()].tolist(), [90, 90, 90])
            ids = file["routing/expert_ids"][()]
            self.assertLess(ids.max(), 32)
            self.assertTrue((np.diff(np.sort(ids, axis=2), axis=2) > 0).all(), "experts of a token are distinct")
            np.testing.assert_allclose(file["routing/weights"][()].astype(float).sum(axis=2), 1, atol=2e-3)

    def test_same_seed_same_rows(self):
        for name, seed in (("a", 5), ("b", 5), ("c", 6)):
            self.run_ok("trace", "generate", "-o", f"{name}.h5", "--experts", 16, "--topk", 2, "--layers", 2, "--seed", seed, *SMALL)
        rows = [h5py.File(self.folder / f"{name}.h5")["routing/expert_ids"][()] for name in "abc"]
        np.testing.assert_array_equal(rows[0], rows[1])
        self.assertTrue((rows[0] != rows[2]).any())

    def test_levels(self):
        shape = ("--experts", 16, "--topk", 2, "--layers", 2)
        for level, present in (("ids", False), ("weights", False), ("logits", True)):
            self.run_ok("trace", "generate", "-o", f"{level}.h5", "--level", level, *shape, *SMALL)
            with h5py.File(self.folder / f"{level}.h5") as file:
                self.assertEqual("logits" in file["routing"], present)
                self.assertEqual("weights" in file["routing"], level != "ids")
        with h5py.File(self.folder / "logits.h5") as file:  # the experts are the largest logits, up to the rounding of fp16
            logits, ids = file["routing/logits"][()].astype(float), file["routing/expert_ids"][()].astype(int)
            chosen = np.take_along_axis(logits, ids, 2).min(2)
            np.testing.assert_allclose(chosen, np.sort(logits, axis=2)[:, :, -2], atol=0.01)

    def test_bootstrap_of_a_file(self):
        self.run_ok("trace", "generate", "-o", "a.h5", "--experts", 16, "--topk", 2, "--layers", 2, *SMALL)
        self.run_ok("trace", "generate", "-o", "b.h5", "--preset", "bootstrap", "--from", "a.h5", *SMALL)
        with h5py.File(self.folder / "a.h5") as a, h5py.File(self.folder / "b.h5") as b:
            blocks = {a["routing/expert_ids"][r * 100:r * 100 + 64].tobytes() for r in range(3)}
            for r in range(3):
                self.assertIn(b["routing/expert_ids"][r * 100:r * 100 + 64].tobytes(), blocks)

    def test_bad_input(self):
        out = ("trace", "generate", "-o", "x.h5")
        shape = ("--experts", 16, "--topk", 2, "--layers", 2)
        for words, expected in (
                (("--preset", "gptos", *shape), "gptoss"),
                (("--experts", 16), "--topk"),
                (("--model", "gpt-oss-20"), "gpt-oss-20b"),
                (("--preset", "zipf", "--level", "logits", *shape), "--level"),
                (("--preset", "k_hot", "--hot-experts", 99, *shape), "hot experts"),
                (("--experts", 4, "--topk", 8, "--layers", 1), "top-k"),
                (("--experts", 2000, "--topk", 8, "--layers", 1), "2000 experts"),
                (("--requests", 0, *shape), "requests"),
                (("--arrivals", "poison", *shape), "poisson"),
                (("--preset", "bootstrap"), "native trace"),
                (("--preset", "bootstrap", "--from", "none.h5"), "none.h5"),
                (("--level", "all", *shape), "--level"),
        ):
            with self.subTest(words=words):
                self.assertIn(expected, self.refuse(*out, *words))
        self.assertIn("nowhere", self.refuse("trace", "generate", "-o", "nowhere/x.h5", *shape))


class Stats(program.ProgramTest):
    def setUp(self):
        super().setUp()
        self.run_ok("trace", "generate", "-o", "a.h5", "--preset", "uniform", "--experts", 16, "--topk", 4, "--layers", 3, *SMALL)

    def test_numbers_equal_those_of_the_rows(self):
        stats = json.loads(self.run_ok("trace", "stats", "a.h5", "--json").out)
        with h5py.File(self.folder / "a.h5") as file:
            ids = file["routing/expert_ids"][()]
        for layer, found in enumerate(stats["per_layer"]):
            load = np.bincount(ids[:, layer].ravel(), minlength=16)
            self.assertAlmostEqual(found["max_over_mean"], load.max() / load.mean(), 6)
            shared = [len(set(ids[t, layer]) & set(ids[t - 1, layer])) for t in range(300) if t % 100]
            self.assertAlmostEqual(found["reuse_lag_1"], np.mean(shared) / 4, 6)
        self.assertEqual((stats["tokens"], stats["requests"], len(stats["per_layer"])), (300, 3, 3))
        self.assertIsNone(stats["per_layer"][2]["next_recall"], "the last layer has no next one")
        self.assertIn("Gini", stats["definitions"]["gini"])

    def test_table(self):
        text = self.run_ok("trace", "stats", "a.h5", "--layers").out
        self.assertIn("reuse_lag_1", text)
        self.assertIn("model layer", text)

    def test_store(self):
        with h5py.File(self.folder / "a.h5") as file:
            rows = file["routing/expert_ids"][()]
        for _ in range(2):
            self.run_ok("trace", "stats", "a.h5", "--store")
        stats = json.loads(self.run_ok("trace", "stats", "a.h5", "--json").out)
        with h5py.File(self.folder / "a.h5") as file:
            gini = file["stats/gini"]
            self.assertEqual(gini[()].tolist(), [layer["gini"] for layer in stats["per_layer"]])
            self.assertEqual(gini.attrs["median"], stats["median_over_layers"]["gini"])
            self.assertTrue(math.isnan(file["stats/next_recall"][2]))
            np.testing.assert_array_equal(file["routing/expert_ids"][()], rows)
        self.assertEqual(self.listing(), ["a.h5"])

    def test_bad_input(self):
        self.assertIn("none.h5", self.refuse("trace", "stats", "none.h5"))
        (self.folder / "text.h5").write_text("no trace")
        self.assertIn("text.h5", self.refuse("trace", "stats", "text.h5", "--store"))


if __name__ == "__main__":
    unittest.main()
