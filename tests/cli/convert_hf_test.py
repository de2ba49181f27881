"""Checkpoints of each Hugging Face architecture become model files whose losses are the library's; damaged and unknown ones are refused.

The checkpoints are tiny and made by numpy (support/tiny_hf.py). The losses in support/hf_nll.npz are the library's own: hf_library_test.py compares
and rewrites them where torch and transformers can be imported.
"""
import json
import struct
import subprocess
import sys
import unittest

import h5py
import numpy as np

import program
import convert_hf
import tiny_hf
from hf_checkpoint import Refusal

SCRIPTS = program.SOURCE / "scripts"
REFERENCE = program.SOURCE / "tests/support/hf_nll.npz"
SHARDS = {"mixtral": 3, "qwen3_moe": 2}
CONFIG = """\
name: hf
model: {path: tiny.model.h5}
trace: {tokens: tokens.npz}
cluster: {ranks: 2}
placement: {layout: local}
payload: {element: fp32}
score: {reference: none}
batch: {load: concurrency(2), max_num_batched_tokens: 24}
"""


def score(test, model, *arguments):
    """Nats of each next token [sequences, tokens - 1] that the program finds."""
    (test.folder / "score.yaml").write_text(CONFIG)
    np.savez(test.folder / "tokens.npz", token_ids=tiny_hf.tokens())
    test.run_ok("score", "score.yaml", f"model.path={model}", *arguments, "--quiet", "--out", "score.h5")
    with h5py.File(test.folder / "score.h5") as file:
        record = file["record/token"]
        order = np.lexsort((record["position"][:], record["request"][:]))
        return record["nll"][:][order].reshape(2, -1)


class Convert(program.ProgramTest):
    def convert(self, case, name="tiny", **changes):
        tiny_hf.write_checkpoint(self.folder / name, case, **changes)
        target = self.folder / f"{name}.model.h5"
        convert_hf.convert(self.folder / name, target)
        return target

    def assert_same_weights(self, first, second):
        with h5py.File(first) as a, h5py.File(second) as b:
            names = []
            a.visititems(lambda name, thing: names.append(name) if isinstance(thing, h5py.Dataset) else None)
            for name in names:
                np.testing.assert_array_equal(a[name][:], b[name][:], name)
            self.assertGreater(len(names), 20)

    def test_losses_are_those_of_the_library(self):
        with np.load(REFERENCE) as reference:
            self.assertEqual(set(reference.files), set(tiny_hf.CASES))
            for case in tiny_hf.CASES:
                with self.subTest(case):
                    found = score(self, self.convert(case, case, shards=SHARDS.get(case, 1)))
                    np.testing.assert_allclose(found, reference[case], rtol=1e-3, atol=1e-4)

    def test_layouts_of_the_library_hold_the_same_model(self):
        for case in ("mixtral", "glm4_moe"):
            with self.subTest(case):
                other = self.convert(case, case + "_fused", tensors=tiny_hf.fused(case))
                self.assert_same_weights(self.convert(case, case), other)
        changes = {"quantization_config": None, "rope_scaling": None,
                   "rope_parameters": {**tiny_hf.CASES["gpt_oss"][2]["rope_scaling"], "rope_theta": 150000.0}}
        plain = self.convert("gpt_oss", "plain", tensors=tiny_hf.unpacked("gpt_oss"), **changes)
        packed = self.convert("gpt_oss", "packed")
        self.assert_same_weights(packed, plain)
        with h5py.File(packed) as a, h5py.File(plain) as b:
            self.assertEqual({**a.attrs, "name": ""}, {**b.attrs, "name": ""})

    def refuses(self, pattern, folder="tiny"):
        before = self.listing()
        with self.assertRaisesRegex(Refusal, pattern):
            convert_hf.convert(self.folder / folder, self.folder / "out.h5")
        self.assertEqual(self.listing(), before)

    def test_configurations_that_are_not_covered_are_refused(self):
        for case, changes, pattern in (
            ("mixtral", {"model_type": "llama"}, "model_type is 'llama'\n.*supported: glm4_moe, gpt_oss, mixtral"),
            ("mixtral", {"hidden_size": None}, "config.json: error: hidden_size is missing"),
            ("mixtral", {"hidden_size": "32"}, "hidden_size is '32', expected a number"),
            ("mixtral", {"num_hidden_layers": 3}, "has no tensor model.layers.2"),
            ("mixtral", {"num_hidden_layers": 1}, "has 3. tensors that a mixtral model of this config.json does not have: model.layers.1"),
            ("mixtral", {"num_key_value_heads": 4}, r"k_proj.weight: error: has shape \[32, 32\], config.json asks for \[64, 32\]"),
            ("mixtral", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
            ("mixtral", {"quantization_config": {"quant_method": "fp8"}}, "quant_method is 'fp8'"),
            ("olmoe", {"clip_qkv": 8.0}, "clip_qkv is 8.0"),
            ("qwen3_moe", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope scaling is of type 'llama3'"),
            ("qwen3_moe", {"rope_scaling": {"rope_type": "yarn", "factor": 0, "original_max_position_embeddings": 32}}, "factor is 0, expected"),
            ("qwen3_moe", {"rope_scaling": {"rope_type": "yarn", "factor": "4"}}, "factor is '4', expected"),
            ("mixtral", {"num_hidden_layers": 1 << 39}, "num_hidden_layers is .*, expected a number from 1 to 1024"),
            ("qwen3_moe", {"rope_scaling": [4]}, r"rope_scaling is \[4\]"),
            ("qwen2_moe", {"layer_types": None}, "layer_types is missing"),
            ("gpt_oss", {"layer_types": ["full_attention"]}, "layer_types is"),
            ("gpt_oss", {"layer_types": ["chunked_attention"] * 2}, "layer_types is"),
        ):
            with self.subTest(pattern):
                tiny_hf.write_checkpoint(self.folder / "tiny", case, **changes)
                self.refuses(pattern)

    def test_damaged_files_are_refused(self):
        tiny_hf.write_checkpoint(self.folder / "tiny", "mixtral")
        path = self.folder / "tiny/model.safetensors"
        whole = path.read_bytes()
        n = struct.unpack("<Q", whole[:8])[0]
        header = json.loads(whole[8:8 + n])

        def with_header(change):
            text = json.dumps({**header, **change}).encode()
            return struct.pack("<Q", len(text)) + text + whole[8 + n:]

        norm = header["model.norm.weight"]
        begin, end = norm["data_offsets"]
        not_finite = whole[:8 + n + begin] + b"\x80\x7f" + whole[8 + n + begin + 2:]
        for data, pattern in (
            (whole[:-10], "lm_head.weight: error: ends at byte|ends at byte .* of .* bytes of data\n.*cut off"),
            (whole[:5], "is no safetensors file, or cut off"), (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
            (b"\xff" * 100, "is no safetensors file"), (struct.pack("<Q", 20) + b"{" * 40, "header is no JSON"),
            (struct.pack("<Q", 2) + b"[]", "header is no JSON object"), (struct.pack("<Q", 1 << 22) + b"[" * (1 << 22), "header is no JSON"),
            (with_header({"model.norm.weight": {**norm, "shape": [31]}}), "has 64 bytes, shape .31. of BF16 needs 62"),
            (with_header({"model.norm.weight": {**norm, "shape": [-32]}}), "has no dtype, shape and data_offsets"),
            (with_header({"model.norm.weight": {**norm, "data_offsets": [end, begin]}}), "ends at byte"),
            (with_header({"model.norm.weight": {**norm, "dtype": "X9"}}), "element type 'X9' is unknown"),
            (with_header({"model.norm.weight": {**norm, "dtype": "F8_E4M3", "shape": [64]}}), "has shape .64., config.json asks for .32."),
            (with_header({"model.norm.weight": {**norm, "dtype": "I16"}}), "has elements of type I16"),
            (with_header({"model.extra": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}), "has 1 tensors that a mixtral .*model.extra"),
            (not_finite, "model.norm.weight: error: has a value that is not finite"),
        ):
            with self.subTest(pattern):
                path.write_bytes(data)
                self.refuses(pattern)
        path.write_bytes(whole)
        (self.folder / "tiny/more.safetensors").write_bytes(whole)
        self.refuses("is also in")

    def test_shards_that_do_not_fit_their_index_are_refused(self):
        folder = self.folder / "tiny"
        tiny_hf.write_checkpoint(folder, "mixtral", shards=3)
        index = folder / "model.safetensors.index.json"
        whole = json.loads(index.read_text())
        (folder / "model-00002-of-00003.safetensors").rename(folder / "elsewhere")
        self.refuses("model-00002-of-00003.safetensors: error: cannot be read")
        (folder / "elsewhere").rename(folder / "model-00002-of-00003.safetensors")
        for places, pattern in (({**whole["weight_map"], "x": "model-00001-of-00003.safetensors"}, "has no tensor x, which the index promises"),
                                ({"x": "../a.safetensors"}, "which is no file of this folder"), ({}, "has no weight_map"), ([], "has no weight_map")):
            index.write_text(json.dumps({"weight_map": places}))
            self.refuses(pattern)
        index.write_text("{")
        self.refuses("is no JSON")

    def test_command_line(self):
        tiny_hf.write_checkpoint(self.folder / "tiny", "mixtral")
        script = SCRIPTS / "convert_hf.py"
        done = subprocess.run([sys.executable, script, "tiny", "out.h5", "--license", "MIT"], capture_output=True, text=True, cwd=self.folder, check=False)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        with h5py.File(self.folder / "out.h5") as file:
            self.assertEqual((file.attrs["name"], file.attrs["license"]), ("tiny", "MIT"))
        done = subprocess.run([sys.executable, script, "absent", "x.h5"], capture_output=True, text=True, cwd=self.folder, check=False)
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertRegex(done.stderr, r"^absent/config\.json: error: cannot be read: .*\n  .*\n$")
        done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=False)
        self.assertIn("example:", done.stdout)

    def test_npz_that_is_no_model_leaves_no_file(self):
        (self.folder / "text.npz").write_text("hello")
        config = json.dumps({"layers": 1, "hidden": 4, "q_heads": 1, "kv_heads": 1, "head_dim": 4, "norm_eps": 1e-5, "context": 8, "experts": 2, "top_k": 1})
        np.savez(self.folder / "cut.npz", config=config, **{"e.weight": np.ones((4, 4))})
        for name, reason in (("absent.npz", "No such file"), ("text.npz", ""), ("cut.npz", "h.weight")):
            done = subprocess.run([sys.executable, SCRIPTS / "convert_npz.py", name, "x.h5"], capture_output=True, text=True, cwd=self.folder, check=False)
            self.assertEqual((done.returncode, done.stderr.count("\n")), (2, 1), done.stderr)
            self.assertRegex(done.stderr, f"^{name}: error: .*{reason}")
        self.assertEqual(list(self.folder.glob("x.h5*")), [])


if __name__ == "__main__":
    unittest.main()
