"""moekv trace import and join as a user runs them: recognition, messages, what is written."""
import gzip
import json
import unittest

import h5py
import numpy as np
from program import SOURCE, ProgramTest


def route(request, token, layer, ids, weights):
    return json.dumps({"type": "route", "req_id": request, "token_idx": token, "layer": layer, "topk_ids": ids, "topk_weights": weights})


class TraceImport(ProgramTest):
    def write(self, name, text):
        path = self.folder / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    def log(self, tokens=6):
        return "\n".join(route(f"r{r}", t, l, [(r + t) % 4, 4 + l], [0.75, 0.25]) for r in range(2) for t in range(tokens) for l in (0, 1)) + "\n"

    def test_log_becomes_a_trace(self):
        done = self.run_ok("trace", "import", self.write("log.jsonl.gz", self.log()), "-o", "out.moekv.h5", "--experts", 8, "--license", "MIT", "--prompt-share", 0.5)
        self.assertIn("imported as route-jsonl", done.out)
        self.assertIn("out.moekv.h5: 2 requests, 12 tokens", done.out)
        with h5py.File(self.folder / "out.moekv.h5") as file:
            self.assertEqual(file.attrs["license"], "MIT")
            self.assertEqual(file["requests/prompt_len"][:].tolist(), [3, 3])
            ids = file["routing/expert_ids"][:]
            self.assertEqual(ids.shape, (12, 2, 2))
            self.assertEqual(ids[7].tolist(), [[2, 4], [2, 5]])
            self.assertTrue(any("imported as route-jsonl" in line.decode() for line in file["provenance/import_log"][:]))
        self.run_ok("trace", "info", "--check", "out.moekv.h5")

    def test_npz_written_by_numpy(self):
        ids = np.random.default_rng(1).permuted(np.tile(np.arange(8), (20, 3, 1)), axis=2)[:, :, :2]
        for name, save in (("a.npz", np.savez), ("b.npz", np.savez_compressed)):
            save(self.folder / name, ids=np.asfortranarray(ids.astype("i8")), seq_lens=np.array([12, 8]))
            self.run_ok("trace", "import", name, "-o", "out.moekv.h5", "--experts", 8)
            with h5py.File(self.folder / "out.moekv.h5") as file:
                self.assertTrue((file["routing/expert_ids"][:] == ids).all())

    def test_bad_input_is_refused(self):
        message = self.refuse("trace", "import", self.write("bad.jsonl", self.log() + "{broken\n" + self.log()), "-o", "out.moekv.h5", "--experts", 8)
        self.assertIn("bad.jsonl:25: error: line is not a JSON object", message)
        message = self.refuse("trace", "import", self.write("log.jsonl", self.log()), "-o", "out.moekv.h5")
        self.assertIn("give it with --experts or --model", message)
        message = self.refuse("trace", "import", self.write("x.txt", "hello"), "-o", "out.moekv.h5")
        self.assertIn("the format is not recognised", message)
        self.refuse("trace", "import", self.folder / "log.jsonl", "-o", "out.moekv.h5", "--model", "deepseek-v2-lite")
        deep = '{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": ' + "[" * 100000 + "]" * 100000 + "}\n"
        first = '\n{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1]}\n'
        message = self.refuse("trace", "import", self.write("deep.jsonl", first + deep), "-o", "out.moekv.h5")
        self.assertIn("deep.jsonl:3: error: nested more than 64 levels deep", message)
        twice = self.write("twice.csv", "arrival_ms,prompt_tokens,Prompt_Tokens,output_tokens\n0,4,5,2\n")
        self.assertIn("twice.csv:1: error: two columns are called 'prompt_tokens'", self.refuse("trace", "import", twice, "-o", "out.moekv.h5"))
        self.refuse("trace", "import", "-o", "out.moekv.h5")
        self.refuse("trace", "import", self.write("cut.npz", "PK\x03\x04"), "-o", "out.moekv.h5", "--experts", 8)

    def test_requests_join_recordings(self):
        self.run_ok("trace", "import", self.write("log.jsonl", self.log()), "-o", "rec.moekv.h5", "--experts", 8)
        self.write("req.csv", "arrival_ms,prompt_tokens,output_tokens\n0,4,2\n5,2,2\n9,10,10\n")
        done = self.run_ok("trace", "join", "rec.moekv.h5", "--requests-from", "req.csv", "-o", "joined.moekv.h5")
        self.assertIn("1 requests fit a recording exactly, 1 are the beginning of a longer one, 1 are several in a row", done.out)
        with h5py.File(self.folder / "joined.moekv.h5") as file:
            self.assertEqual(file["requests/arrival_ns"][:].tolist(), [0, 5_000_000, 9_000_000])
            self.assertEqual(file.attrs["joined"], 1)
            self.assertEqual(file["tokens/position"][:].tolist(), [*range(6), *range(4), *range(20)])
        self.run_ok("trace", "join", "rec.moekv.h5", "--concat", "--requests", 2, "--tokens", 16, "-o", "long.moekv.h5")
        self.run_ok("trace", "info", "--check", "long.moekv.h5")
        self.refuse("trace", "join", "rec.moekv.h5", "-o", "x.moekv.h5")
        self.refuse("trace", "join", "rec.moekv.h5", "--concat", "-o", "x.moekv.h5")

    def test_request_trace_stands_alone(self):
        self.write("req.csv", "\narrival_ms,prompt_tokens,output_tokens\n0,4,2\n5,2,2\n")
        self.run_ok("trace", "import", "req.csv", "-o", "req.moekv.h5")
        self.run_ok("trace", "info", "--check", "req.moekv.h5")

    def test_shipped_traces_are_sound(self):
        traces = sorted((SOURCE / "configs/traces").glob("*.moekv.h5"))
        self.assertGreaterEqual(len(traces), 3)
        for trace in traces:
            self.run_ok("trace", "info", "--check", trace)


if __name__ == "__main__":
    unittest.main()
