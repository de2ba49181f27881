"""A model in the loop as a user starts it: tinymoe's loss is the reference's on any number of processes, what it did can be replayed, what is lost costs."""
import unittest

import h5py
import numpy as np

import program

CONFIGS = program.SOURCE / "configs"
DENSE = ("eviction=null", "trace.max_requests=4")


def tokens_of(path):
    with h5py.File(path) as file:
        record = file["record/token"]
        return {name: record[name][:] for name in ("request", "position", "target", "nll", "nll_reference", "kl", "same_top1")}


class Score(program.ProgramTest):
    def score(self, *arguments, ranks=None):
        out = self.folder / f"{len(self.listing())}.h5"
        self.run_ok("score", CONFIGS / "examples/score.yaml", *arguments, "--quiet", "--out", out, ranks=ranks)
        return out

    def metrics(self, path):
        with h5py.File(path) as file:
            return {name: dataset[0] for name, dataset in file["metric"].items()}

    def test_dense_loss_is_the_reference_on_any_number_of_processes(self):
        with np.load(CONFIGS / "traces/tinymoe_eval.npz") as reference:
            truth = reference["nll"][:4].ravel()
        runs = [self.score(*DENSE, ranks=ranks) for ranks in (None, 2, 4)]
        rows = [tokens_of(run) for run in runs]
        self.assertEqual(len(rows[0]["nll"]), len(truth))
        self.assertLess(np.abs(rows[0]["nll"] - truth).max(), 2e-3)
        self.assertLess(abs(rows[0]["nll"].mean() - truth.mean()), 2e-4)
        for other in rows[1:]:
            for name, values in rows[0].items():
                np.testing.assert_array_equal(values, other[name], name)
        numbers = [self.metrics(run) for run in runs]
        for name in ("nll", "nll_change", "kl_reference", "attention_drift", "evictions", "bytes_wire"):
            self.assertEqual(len({n[name] for n in numbers}), 1, name)
        digests = set()
        for run in runs:
            with h5py.File(run) as file:
                digests.add(file["digest"][0])
                self.assertIn(b"feedback", file["labels"][0])
                self.assertEqual(len(file["provenance"].attrs["model_digest"]), 32)
        self.assertEqual(len(digests), 1)
        self.assertEqual(numbers[0]["nll_change"], 0)
        self.assertEqual(numbers[0]["kl_reference"], 0)
        self.assertEqual(numbers[0]["top1_agreement"], 1)

    def test_a_recording_is_the_one_in_the_repository(self):
        given = h5py.File(CONFIGS / "traces/tinymoe_cut.moekv.h5")
        ids = given["tokens/token_id"][:].reshape(4, 160)
        np.savez(self.folder / "tokens.npz", token_ids=ids)
        trace = self.folder / "own.moekv.h5"
        self.score("eviction=null", f"trace.tokens={self.folder / 'tokens.npz'}", "score.reference=none", "--record", trace, ranks=2)
        self.run_ok("trace", "info", "--check", trace)
        with h5py.File(trace) as own, given:
            rows = np.concatenate([np.arange(159) + 160 * s for s in range(4)])  # the last token of a sequence predicts nothing
            np.testing.assert_array_equal(own["tokens/token_id"][:], given["tokens/token_id"][:][rows])
            for name in ("kv/q", "kv/k", "kv/v", "routing/logits"):
                a, b = own[name][:].astype(np.float64), given[name][:][rows].astype(np.float64)
                self.assertEqual(a.shape, b.shape)
                step = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(b), 2.0 ** -14))) - 10)  # of float16 at b
                noise = 1e-5 * np.sqrt((b ** 2).mean(axis=-1, keepdims=True))  # of float32 sums over a row, in another order
                self.assertLessEqual((np.abs(a - b) / (step + noise)).max(), 1, name)
            same = own["routing/expert_ids"][:] == given["routing/expert_ids"][:][rows]
            self.assertGreater(same.mean(), 0.999)

    def test_what_is_lost_costs_and_more_budget_costs_less_in_one_sweep(self):
        budgets, codecs = ("15%", "30%", "60%"), ("int8_token", "int4_token", "turboquant2")
        cases = {**{budget: ["eviction.policy=streaming", f"eviction.budget={budget}"] for budget in budgets},
                 **{codec: ["eviction=null", f"compression.codec={codec}"] for codec in codecs},
                 "router": ["eviction=null", "routing.router=load_balance", "routing.alpha=2"]}
        points = self.sweep(f"{CONFIGS}/examples/score.yaml\n", {name: ["trace.max_requests=4", *settings] for name, settings in cases.items()})
        kl = {}
        for budget in budgets:
            numbers = points[budget].metrics
            kl[budget] = numbers["kl_reference_tail"]
            self.assertGreater(numbers["evictions"], 0)
            self.assertLess(numbers["nll_change_low_tail"], numbers["nll_change_tail"])
            self.assertGreater(numbers["nll_change_high_tail"], numbers["nll_change_tail"])
        self.assertGreater(kl["15%"], kl["30%"])
        self.assertGreater(kl["30%"], kl["60%"])
        self.assertGreater(kl["60%"], 0)
        codes = [points[codec].metrics for codec in codecs]
        self.assertEqual([n["evictions"] for n in codes], [0, 0, 0])
        drift = [n["attention_drift_tail"] for n in codes]
        self.assertEqual(drift, sorted(drift))
        self.assertGreater(drift[0], 0)
        router = points["router"].metrics
        self.assertGreater(router["routing_change_rate"], 0)
        self.assertNotEqual(router["nll_change"], 0)

    def test_weights_that_overflow_end_with_exit_code_1(self):
        model = self.folder / "model.h5"
        model.write_bytes((CONFIGS / "models/tinymoe.model.h5").read_bytes())
        with h5py.File(model, "r+") as file:
            shape = file["layers/2/ffn/experts_up"].shape
            del file["layers/2/ffn/experts_up"]
            file["layers/2/ffn/experts_up"] = np.full(shape, 3e38, "f4")
        for ranks in (None, 2):
            done = program.run("score", CONFIGS / "examples/score.yaml", *DENSE, "trace.max_requests=2", f"model.path={model}", "--quiet", "--out", "o.h5",
                               folder=self.folder, ranks=ranks)
            self.assertEqual(done.code, 1, done)
            self.assertIn("first for the residual stream of request 0, position 0, layer 2 (step 0)", done.err)

    def test_bad_input_is_refused_and_leaves_nothing(self):
        config = CONFIGS / "examples/score.yaml"
        whole = (CONFIGS / "models/tinymoe.model.h5").read_bytes()
        cut = self.folder / "cut.h5"
        cut.write_bytes(whole[: len(whole) // 2])
        apart, weights = self.folder / "apart.h5", self.folder / "weights.bin"
        apart.write_bytes(whole)
        with h5py.File(apart, "r+") as file:  # a whole model, but for weights that lie in another file
            values = file["embed"][:]
            weights.write_bytes(values.tobytes())
            del file["embed"]
            file.create_dataset("embed", values.shape, values.dtype, external=[(str(weights), 0, values.nbytes)])
        for arguments, expected in (
            ((f"model.path={cut}",), "cut.h5"),
            ((f"model.path={apart}",), "embed: keeps its data in another file"),
            ((f"model.path={CONFIGS / 'traces/tinymoe_cut.moekv.h5'}",), "is no model file"),
            ((f"trace.path={CONFIGS / 'traces/tinymoe_cut.moekv.h5'}",), "trace.path=null on the command line"),
            ((f"trace.tokens={CONFIGS / 'models/tinymoe.model.h5'}",), "has no array token_ids"),
        ):
            with self.subTest(arguments):
                told = self.refuse("score", config, *arguments, "--out", "out.h5")
                self.assertIn(expected, told)
                self.assertEqual(told.count("error:"), 1, told)
        self.assertIn("model.path: missing required key", self.refuse("score", CONFIGS / "quickstart.yaml", "--out", "out.h5"))
        self.assertIn("cut.h5", self.refuse("score", config, f"model.path={cut}", "--out", "out.h5", ranks=2))


if __name__ == "__main__":
    unittest.main()
