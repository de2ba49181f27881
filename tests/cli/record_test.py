"""Recorders of vLLM and SGLang: what these tools return becomes a sound native trace with the same experts, or is refused."""
import base64
import io
import json
import random
import subprocess
import sys
import types
import unittest

import h5py
import numpy as np

import program

RECORD = program.SOURCE / "scripts/record"
sys.path.insert(0, str(RECORD))
import gate  # noqa: E402
import model_facts  # noqa: E402
import record_sglang  # noqa: E402
import record_vllm  # noqa: E402
import torch_archive  # noqa: E402

LAYERS, EXPERTS, TOP_K = 3, 8, 2  # the first layer is dense
CONFIG = {"model_type": "qwen3_moe", "num_hidden_layers": LAYERS, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
          "num_experts": EXPERTS, "num_experts_per_tok": TOP_K, "norm_topk_prob": True, "mlp_only_layers": [0], "rope_theta": 10000.0}


def routing(n_tokens, seed):
    """[tokens, layers, top_k] as the tools have it: the dense layer is all zeros."""
    ids = np.argsort(np.random.default_rng(seed).random((n_tokens, LAYERS, EXPERTS)), axis=2)[:, :, :TOP_K].astype("i4")
    ids[:, 0] = 0
    return ids


def npy_text(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return base64.b64encode(buffer.getvalue()).decode()


class Case(program.ProgramTest):
    def setUp(self):
        super().setUp()
        (self.folder / "config.json").write_text(json.dumps(CONFIG))
        self.facts = model_facts.read_facts(self.folder)
        self.out = self.folder / "out.moekv.h5"

    def script(self, name, *arguments):
        return subprocess.run([sys.executable, RECORD / name, *map(str, arguments)], capture_output=True, text=True, cwd=self.folder, check=False)

    def check_trace(self, sequences):
        """The trace holds these (prompt tokens, token ids or None, experts) in this order, and the program takes it."""
        self.run_ok("trace", "info", "--check", self.out)
        with h5py.File(self.out) as trace:
            self.assertEqual(trace["requests/prompt_len"][:].tolist(), [prompt for prompt, _, _ in sequences])
            self.assertEqual(np.diff(trace["requests/token_offset"][:]).tolist(), [len(experts) for _, _, experts in sequences])
            np.testing.assert_array_equal(trace["routing/expert_ids"][:], np.concatenate([experts[:, 1:] for _, _, experts in sequences]))
            if sequences[0][1] is not None:
                self.assertEqual(trace["tokens/token_id"][:].tolist(), [t for _, tokens, _ in sequences for t in tokens])
            self.assertEqual(trace["model/moe_layer_ids"][:].tolist(), [1, 2])


class Vllm(Case):
    def test_objects_of_the_library(self):
        replies, expected = [], []
        for i, (n_prompt, n_output) in enumerate([(5, 3), (1, 4)]):
            ids = routing(n_prompt + n_output - 1, i)
            tokens = list(range(n_prompt + n_output))
            completion = types.SimpleNamespace(token_ids=tuple(tokens[n_prompt:]), routed_experts=ids)
            replies.append((f"request {i}", types.SimpleNamespace(prompt_token_ids=tokens[:n_prompt], outputs=[completion])))
            expected.append((n_prompt, tokens[:-1], ids))
        record_vllm.write_trace(replies, self.facts, self.out)
        self.check_trace(expected)

    def test_replies_of_a_server(self):
        ids = routing(7, 3)
        whole = {"prompt_token_ids": [1, 2, 3], "choices": [{"token_ids": [4, 5, 6, 7, 8], "routed_experts": npy_text(ids.astype("u1"))}]}
        apart = {"prompt_token_ids": [1, 2, 3], "prompt_routed_experts": ids[:3].tolist(),
                 "choices": [{"token_ids": [4, 5, 6, 7, 8], "routed_experts": npy_text(ids[3:, 1:].astype("u2"))}]}
        apart["prompt_routed_experts"] = ids[:3, 1:].tolist()  # of the layers with experts alone
        (self.folder / "replies.jsonl").write_text(json.dumps(whole) + "\n\n" + json.dumps(apart) + "\n")
        done = self.script("record_vllm.py", "replies", self.folder, "replies.jsonl", self.out)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.check_trace([(3, list(range(1, 8)), ids)] * 2)

    def test_bad_replies_are_refused(self):
        ids = routing(7, 3)
        good = {"prompt_token_ids": [1, 2, 3], "choices": [{"token_ids": [4, 5, 6, 7, 8], "routed_experts": npy_text(ids)}]}
        for change, expected in (({"routed_experts": None}, "enable_return_routed_experts"), ({"routed_experts": "AAAA"}, "cannot be read"),
                                 ({"token_ids": None}, "return_token_ids"), ({"routed_experts": npy_text(ids[:4])}, r"4 rows of experts for 3 \+ 5 tokens"),
                                 ({"routed_experts": npy_text(ids[:, :1])}, "has 1 layers"), ({"routed_experts": npy_text(ids + 5)}, "not below the model's 8"),
                                 ({"routed_experts": npy_text(ids * 0)}, "an expert twice")):
            with self.subTest(expected), self.assertRaisesRegex(model_facts.Refusal, expected):
                record_vllm.write_trace([("x", {**good, "choices": [{**good["choices"][0], **change}]})], self.facts, self.out)
        self.assertEqual(self.listing(), ["config.json"])
        (self.folder / "cut.jsonl").write_text(json.dumps(good)[:50])
        done = self.script("record_vllm.py", "replies", self.folder, "cut.jsonl", self.out)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertRegex(done.stderr, r"cut\.jsonl: error: is not one JSON object a line")


class Server:
    """Continuous batching as SGLang's scheduler has it: chunks of prompts, else one token of every running request; records each pass."""

    def __init__(self, requests, chunk, most_running):
        self.waiting, self.running, self.records = list(requests), [], []  # request: (prompt tokens, all tokens, experts)
        self.done = {}
        while self.waiting or self.running:
            partial = [r for r in self.running if self.done[id(r)] < r[0]]
            joining = [self.waiting.pop(0)] if not partial and self.waiting and len(self.running) < most_running else []
            for r in joining:
                self.done[id(r)] = 0
                self.running.append(r)
            prefilling = partial + joining
            self.forward([(r, min(chunk, r[0] - self.done[id(r)])) for r in prefilling] or [(r, 1) for r in self.running], bool(prefilling))
            self.running = [r for r in self.running if self.done[id(r)] < len(r[1])]

    def forward(self, runs, extend):
        rows = [(r, range(self.done[id(r)], self.done[id(r)] + n)) for r, n in runs]
        experts = np.concatenate([r[2][list(span)] for r, span in rows]).transpose(1, 0, 2)
        padded = np.full((*experts.shape[:2], 8), -1, "i4")
        padded[:, :, :TOP_K] = experts
        self.records.append({"forward_pass_id": len(self.records) + 1, "rank": 0, "forward_mode": 1 if extend else 2, "topk_ids_of_layer": padded,
                             "input_ids": [r[1][p] for r, span in rows for p in span], "positions": [p for _, span in rows for p in span],
                             "extend_seq_lens": [n for _, n in runs] if extend else None, "misc_objects": []})
        for r, n in runs:
            self.done[id(r)] += n


class Sglang(Case):
    def requests(self, n, seed):
        lengths = random.Random(seed)
        out = []
        for i in range(n):
            prompt, output = lengths.choice([3, 4, 6, 9, 17, 26, 40]), lengths.choice([1, 3, 3, 8])
            out.append((prompt, [1000 * i + p for p in range(prompt + output)], routing(prompt + output, seed + i)))
        return out

    def test_requests_are_put_together_again(self):
        """Many requests side by side, in chunks, experts named by their replicas: right wherever nothing was guessed, and alone always."""
        physical = np.stack([np.random.default_rng(l).permutation(EXPERTS) for l in range(LAYERS)])
        replicas = np.argsort(physical, axis=1).astype("i4")
        sure = 0
        for seed in range(60):
            requests, most_running = self.requests(6, seed), 1 + seed % 3
            server = Server([(prompt, tokens, replicas[np.arange(LAYERS)[:, None], ids]) for prompt, tokens, ids in requests], 5, most_running)
            found = record_sglang.Sequences(server.records[::-1], physical)
            if most_running > 1 and found.guessed_rows > 0:
                continue
            sure += most_running > 1
            self.assertEqual([s.tokens for s in found.all], [tokens for _, tokens, _ in requests])
            self.assertEqual([s.prompt_tokens for s in found.all], [prompt for prompt, _, _ in requests])
            for s, (_, _, ids) in zip(found.all, requests):
                np.testing.assert_array_equal(np.concatenate(s.experts)[:, :, :TOP_K], ids)
        self.assertGreater(sure, 10)

    def test_a_dump_that_torch_saved(self):
        """tests/support/sglang_per_token.pt was saved by torch from the records of three requests of seed 1 (make_sglang_sample.py)."""
        sample = program.SOURCE / "tests/support/sglang_per_token.pt"
        done = self.script("record_sglang.py", "dumps", self.folder, self.out, sample)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.check_trace(self.requests(3, 1))
        for name, data in (("cut.pt", sample.read_bytes()[:2000]), ("text.pt", b"hello")):
            (self.folder / name).write_bytes(data)
            with self.assertRaisesRegex(model_facts.Refusal, f"{name}: error: is no sound file of torch.save"):
                torch_archive.load(self.folder / name)

    def test_a_pickle_that_names_code_is_refused(self):
        import zipfile

        with zipfile.ZipFile(self.folder / "evil.pt", "w") as archive:
            archive.writestr("x/data.pkl", b"cos\nsystem\n(S'touch broken'\ntR.")
        with self.assertRaisesRegex(model_facts.Refusal, "names os.system"):
            torch_archive.load(self.folder / "evil.pt")
        self.assertFalse((self.folder / "broken").exists())

    def test_replies_of_a_server(self):
        ids = routing(6, 5)
        meta = {"prompt_tokens": 4, "completion_tokens": 3, "routed_experts": base64.b64encode(ids.astype("<i4").tobytes()).decode()}
        (self.folder / "replies.jsonl").write_text(json.dumps({"meta_info": meta}) + "\n")
        done = self.script("record_sglang.py", "replies", self.folder, self.out, "replies.jsonl")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.check_trace([(4, None, ids)])
        self.out.unlink()
        for change, expected in (({"completion_tokens": 9}, "36 ids for 13 tokens"), ({"routed_experts": None}, "return_routed_experts")):
            with self.assertRaisesRegex(model_facts.Refusal, expected):
                record_sglang.experts_of({"meta_info": {**meta, **change}}, self.facts, "x")

    def test_wrong_kinds_of_dumps_are_refused(self):
        records = Server(self.requests(2, 1), 5, 4).records
        with self.assertRaisesRegex(ValueError, "continues no sequence"):
            record_sglang.Sequences(records[1:], np.tile(np.arange(EXPERTS), (LAYERS, 1)))


class Gate(unittest.TestCase):
    def test_choices_by_hand(self):
        """Vectors of the routing reference: softmax before and after the choice, sigmoid with groups and a bias of the choice."""
        facts = model_facts.facts_of(CONFIG, "config.json")
        logits = np.log([[1.0, 2.0, 4.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
        ids, weights = gate.choose(logits, facts)
        self.assertEqual(ids.tolist(), [[2, 1]])
        np.testing.assert_allclose(weights, [[2 / 3, 1 / 3]])
        facts.renormalise = False
        np.testing.assert_allclose(gate.choose(logits, facts)[1], [[4 / 12, 2 / 12]])
        facts.score, facts.n_group, facts.topk_group, facts.scale = "sigmoid", 2, 1, 2.0
        scores = np.array([0.9, 0.1, 0.1, 0.1, 0.6, 0.6, 0.1, 0.1])
        ids, weights = gate.choose(np.log(scores / (1 - scores))[None], facts)
        self.assertEqual(ids.tolist(), [[4, 5]])  # 0.6 + 0.6 beats 0.9 + 0.1
        np.testing.assert_allclose(weights, [[1.2, 1.2]])
        ids, weights = gate.choose(np.log(scores / (1 - scores))[None], facts, np.array([0, 0.3, 0, 0, 0, 0, 0, 0]))
        self.assertEqual(ids.tolist(), [[0, 1]])
        np.testing.assert_allclose(weights, [[1.8, 0.2]])


if __name__ == "__main__":
    unittest.main()
