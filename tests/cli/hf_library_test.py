"""The library of Hugging Face itself against moekv score: losses of every architecture, of the library's own checkpoints, and what both record.

Needs torch and transformers: configure with -DPython3_EXECUTABLE=PYTHON that has them (and numpy, h5py), or start this file with it. With --write it
rewrites support/hf_nll.npz, the losses that convert_hf_test.py compares with where the library is not there.
"""
import sys
import unittest

import h5py
import numpy as np

import convert_hf_test
import program

try:
    import torch
    import transformers
except ImportError as e:
    print(f"skipped: {e}: the comparison with Hugging Face needs torch and transformers (convert_hf_test.py has its recorded losses)")
    sys.exit(77)

sys.path.insert(0, str(program.SOURCE / "scripts/record"))
import convert_hf  # noqa: E402
import hf_library  # noqa: E402
import record_transformers  # noqa: E402
import tiny_hf  # noqa: E402


class Library(program.ProgramTest):
    def model_of(self, case):
        tiny_hf.write_checkpoint(self.folder / case, case, shards=convert_hf_test.SHARDS.get(case, 1))
        return hf_library.load(self.folder / case)

    def test_recorded_losses_are_the_library_s(self):
        with np.load(convert_hf_test.REFERENCE) as reference:
            for case in tiny_hf.CASES:
                with self.subTest(case):
                    np.testing.assert_allclose(hf_library.losses(self.model_of(case), tiny_hf.tokens()), reference[case], rtol=1e-4, atol=1e-5)

    def test_checkpoints_that_the_library_saves(self):
        """Models of the library's own configuration and initialisation, in fp32, as save_pretrained leaves them."""
        for case, (name, _, _) in tiny_hf.CASES.items():
            with self.subTest(case):
                config = {key: value for key, value in tiny_hf.config_of(case).items() if key not in ("quantization_config", "architectures", "model_type")}
                architecture = getattr(transformers, name)
                torch.manual_seed(1)
                model = architecture(architecture.config_class(**{**config, "initializer_range": 0.3}, attn_implementation="eager")).eval()
                model.save_pretrained(self.folder / case, max_shard_size="100KB")
                self.assertGreater(len(list((self.folder / case).glob("*.safetensors"))), 1)
                convert_hf.convert(self.folder / case, self.folder / "own.model.h5")
                expected = hf_library.losses(model, tiny_hf.tokens())
                self.assertGreater(expected.std(), 0.1)
                np.testing.assert_allclose(convert_hf_test.score(self, "own.model.h5"), expected, rtol=1e-3, atol=1e-4)

    def test_recordings_agree(self):
        """record_transformers.py and moekv score --record see the same q, k, v, logits, experts and weights, within binary16."""
        for case in tiny_hf.CASES:
            with self.subTest(case):
                theirs, ours = self.folder / "theirs.moekv.h5", self.folder / "ours.moekv.h5"
                record_transformers.record(self.model_of(case), list(tiny_hf.tokens()[:, :-1]), theirs)
                self.run_ok("trace", "info", "--check", theirs)
                convert_hf.convert(self.folder / case, self.folder / "m.model.h5")
                convert_hf_test.score(self, "m.model.h5", "--record", ours)
                with h5py.File(theirs) as a, h5py.File(ours) as b:
                    for name in ("tokens/token_id", "model/moe_layer_ids", "kv/layer_ids"):
                        np.testing.assert_array_equal(a[name][:], b[name][:], name)
                    for name in ("kv/q", "kv/k", "kv/v", "routing/logits"):
                        first, second = a[name][:].astype("f4"), b[name][:].astype("f4")
                        self.assertLess(np.abs(first - second).max(), 2e-3 * np.abs(second).max(), name)
                    first, second = (np.zeros((*f["routing/logits"].shape,), "f4") for f in (a, b))
                    np.put_along_axis(first, a["routing/expert_ids"][:].astype("i8"), a["routing/weights"][:].astype("f4"), axis=2)
                    np.put_along_axis(second, b["routing/expert_ids"][:].astype("i8"), b["routing/weights"][:].astype("f4"), axis=2)
                    self.assertLess(np.abs(first - second).max(), 3e-3)
                    for name in ("n_layers", "n_heads", "n_kv_heads", "head_dim_k", "n_experts", "top_k", "score_func", "norm_topk", "scale", "n_group"):
                        self.assertEqual(a["model"].attrs[name], b["model"].attrs[name], name)
                    self.assertEqual(a.attrs["weight_kind"], b.attrs["weight_kind"])

    def test_generation_is_recorded_token_by_token(self):
        """Rows of a generation with a cache are those of one pass over its tokens; the last token has none."""
        for case in ("gpt_oss", "glm4_moe"):
            with self.subTest(case):
                prompts = [tiny_hf.tokens()[0, :40], tiny_hf.tokens()[1, :7]]
                record_transformers.record(self.model_of(case), prompts, self.folder / "steps.moekv.h5", generate=9)
                self.run_ok("trace", "info", "--check", "steps.moekv.h5")
                with h5py.File(self.folder / "steps.moekv.h5") as steps:
                    self.assertEqual(steps["requests/prompt_len"][:].tolist(), [40, 7])
                    begin = steps["requests/token_offset"][:]
                    tokens = [steps["tokens/token_id"][b:e] for b, e in zip(begin, begin[1:])]
                    self.assertLessEqual(max(steps["requests/output_len"][:]), 8)
                    record_transformers.record(self.model_of(case), tokens, self.folder / "whole.moekv.h5")
                    with h5py.File(self.folder / "whole.moekv.h5") as whole:
                        np.testing.assert_array_equal(steps["routing/expert_ids"][:], whole["routing/expert_ids"][:])
                        for name in ("kv/q", "kv/k", "kv/v", "routing/logits"):
                            np.testing.assert_allclose(steps[name][:].astype("f4"), whole[name][:].astype("f4"), atol=4e-3, err_msg=name)


def write_reference():
    case = Library()
    case.setUp()
    np.savez_compressed(convert_hf_test.REFERENCE, **{name: hf_library.losses(case.model_of(name), tiny_hf.tokens()) for name in tiny_hf.CASES})


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write_reference()
    else:
        unittest.main()
