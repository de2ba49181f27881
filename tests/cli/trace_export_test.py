"""`moekv trace info` and `moekv trace export` as a user runs them: facts, JSON, the full check, arrays and lines equal to what the file holds."""
import json
import unittest

import h5py
import numpy as np

import program
import trace_file


class TraceInfoAndExport(program.ProgramTest):
    def setUp(self):
        super().setUp()
        self.trace = self.folder / "tiny.moekv.h5"
        trace_file.write(self.trace)

    def test_info_as_text_and_json(self):
        text = self.run_ok("trace", "info", self.trace).out
        self.assertIn("2 requests, 40 tokens (27 prompt, 13 output)", text)
        facts = json.loads(self.run_ok("trace", "info", "--json", "--check", self.trace).out)
        self.assertEqual(facts["requests"]["n_tokens"], 40)
        self.assertEqual(facts["model"]["moe_layers"], trace_file.MOE_LAYERS)
        self.assertEqual(facts["errors"], [])

    def test_check_names_the_row(self):
        with h5py.File(self.trace, "r+") as file:
            file["routing/expert_ids"][7, 1] = [4, 4]
        self.assertIn("token row 7 layer 2 has {4, 4}", self.refuse("trace", "info", "--check", self.trace))

    def test_npz_holds_the_rows(self):
        self.run_ok("trace", "export", self.trace, "--npz", "out.npz")
        with h5py.File(self.trace) as file, np.load(self.folder / "out.npz") as arrays:
            np.testing.assert_array_equal(arrays["ids"], file["routing/expert_ids"])
            np.testing.assert_array_equal(arrays["weights"], file["routing/weights"])
            self.assertEqual(arrays["weights"].dtype, np.float16)
            self.assertEqual(arrays["seq_lens"].tolist(), [24, 16])
            self.assertEqual(arrays["prompt_lens"].tolist(), trace_file.PROMPTS)
            self.assertEqual(arrays["moe_layer_ids"].tolist(), trace_file.MOE_LAYERS)
        with h5py.File(self.trace) as file:
            experts = json.loads(self.run_ok("trace", "info", "--json", self.trace).out)["model"]["n_experts"]
            self.run_ok("trace", "import", "out.npz", "--experts", experts, "-o", "back.moekv.h5")
            with h5py.File(self.folder / "back.moekv.h5") as back:
                for name in ("model/moe_layer_ids", "requests/arrival_ns", "requests/prompt_len", "requests/output_len", "routing/expert_ids", "routing/weights"):
                    np.testing.assert_array_equal(back[name], file[name], name)

    def test_jsonl_holds_the_rows(self):
        self.run_ok("trace", "export", self.trace, "--jsonl", "out.jsonl")
        lines = [json.loads(line) for line in (self.folder / "out.jsonl").read_text().splitlines()]
        self.assertEqual(lines[0]["layers_logged"], trace_file.MOE_LAYERS)
        self.assertEqual(len(lines), 1 + 40 * 2)
        with h5py.File(self.trace) as file:
            for i, line in enumerate(lines[1:]):
                self.assertEqual(line["topk_ids"], file["routing/expert_ids"][i // 2, i % 2].tolist())
                np.testing.assert_array_equal(np.float16(line["topk_weights"]), file["routing/weights"][i // 2, i % 2])

    def test_export_needs_one_format(self):
        self.refuse("trace", "export", self.trace)
        self.refuse("trace", "export", self.trace, "--npz", "a.npz", "--jsonl", "b.jsonl")


if __name__ == "__main__":
    unittest.main()
