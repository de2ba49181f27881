#!/usr/bin/python3
"""Records what a Hugging Face model does on a token file as a native trace: router logits, chosen experts and weights, q, k, v after the rotation.

Needs torch and transformers 5 (4.57 too, where some architectures give their routing alone: --no-qkv). Sequences run one by one with the library's
plain attention; --generate lets the model go on.
"""
import argparse
import re
import sys

import h5py  # noqa: F401  (before torch: both bring their own libraries)
import numpy as np

import gate
from model_facts import Refusal, facts_of
from native_trace import NativeTrace
from token_file import read_sequences


class Recorder:
    """Collects router logits and q, k, v of every forward pass of `model` for one sequence at a time; `take` hands them out.

    Example: recorder = Recorder(model); model(tokens); arrays = recorder.take()
    """

    ATTENTION = "moekv_record"
    active = None  # the recorder that the attention function reports to

    def __init__(self, model, with_qkv=True):
        self.facts = facts_of(model.config.to_dict(), "config of the model")
        self.with_qkv, self.attention_scale = with_qkv, 0.0
        self._routers = self._find_routers(model)
        self.facts.moe_layers = sorted(self._routers)
        self._logits, self._qkv = {}, {}
        for layer, module in self._routers.items():
            module.register_forward_hook(lambda module, inputs, output, layer=layer: self._add_logits(layer, module, inputs[0], output))
        if with_qkv:
            self._attach_attention(model)

    def _find_routers(self, model):
        """Layer -> the module whose matrix has a row for each expert."""
        routers = {}
        for name, module in model.named_modules():
            layer = re.search(r"layers\.(\d+)\.(?:\w+\.)?(?:gate|router)$", name)
            weight = getattr(module, "weight", None)
            if layer and weight is not None and tuple(weight.shape) == (self.facts.n_experts, self.facts.hidden):
                routers[int(layer[1])] = module
        if not routers:
            raise Refusal(self.facts.name, "no module of the model looks like a router", "supported: layers.<n>.<block>.gate or .router with a matrix [experts, hidden]")
        return routers

    def _add_logits(self, layer, module, x, output):
        import torch

        shape = (-1, self.facts.n_experts)
        first = output[0] if isinstance(output, tuple) and len(output) == 3 else output
        if not torch.is_tensor(first) or first.shape[-1] != self.facts.n_experts:  # a router that hands out its choice alone
            x = x.reshape(-1, x.shape[-1])
            first = torch.nn.functional.linear(x.to(module.weight.dtype), module.weight, getattr(module, "bias", None))
        self._logits.setdefault(layer, []).append(first.detach().reshape(shape).float().cpu().numpy())

    def _attach_attention(self, model):
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        Recorder.active = self
        ALL_ATTENTION_FUNCTIONS.register(self.ATTENTION, recording_attention)
        ALL_MASK_ATTENTION_FUNCTIONS.register(self.ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
        model.set_attn_implementation(self.ATTENTION)

    def add_attention(self, layer, scaling, **arrays):
        """New rows [1, heads, tokens, head dimension] of q, k and v."""
        self.attention_scale = float(scaling)
        for name, rows in arrays.items():
            self._qkv.setdefault((name, layer), []).append(rows[0].detach().transpose(0, 1).float().cpu().numpy())

    def take(self):
        """Arrays of NativeTrace.append for the passes since the last call."""
        choices = []
        for layer in self.facts.moe_layers:
            bias = getattr(self._routers[layer], "e_score_correction_bias", None)
            choices.append(gate.choose(np.concatenate(self._logits[layer]), self.facts, None if bias is None else bias.detach().float().cpu().numpy()))
        arrays = {"ids": np.stack([ids for ids, _ in choices], axis=1), "weights": np.stack([weights for _, weights in choices], axis=1),
                  "logits": np.stack([np.concatenate(self._logits[layer]) for layer in self.facts.moe_layers], axis=1)}
        if self.with_qkv and len(self._qkv) != 3 * self.facts.n_layers:
            raise Refusal(self.facts.name, "some layers did not report their attention", "this version of transformers cannot say more: --no-qkv records the routing")
        for name in "qkv" if self.with_qkv else "":
            arrays[name] = np.stack([np.concatenate(self._qkv[name, layer]) for layer in range(self.facts.n_layers)], axis=1)
        self._logits.clear()
        self._qkv.clear()
        return arrays


def recording_attention(module, query, key, value, mask, scaling=None, **options):
    """The plain attention of the module's own architecture, reported to the active recorder: with a cache, the last keys are the new ones."""
    n = query.shape[2]
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    Recorder.active.add_attention(module.layer_idx, scaling, q=query, k=key[:, :, -n:], v=value[:, :, -n:])
    plain = sys.modules[type(module).__module__].eager_attention_forward
    return plain(module, query, key, value, mask, scaling=scaling, **options)


def record(model, sequences, path, generate=0, with_qkv=True):
    """Runs the sequences through the model and writes the trace. The last token that is generated is not fed back, so it has no row."""
    import torch

    recorder = Recorder(model, with_qkv)
    with NativeTrace(path, recorder.facts, "record_transformers.py", source="transformers", workload="teacher-forced" if generate == 0 else "greedy") as trace:
        for tokens in sequences:
            inputs = torch.tensor(np.asarray(tokens, "i8"), device=model.device)[None]
            with torch.no_grad():
                if generate > 0:
                    inputs = model.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=generate, do_sample=False, use_cache=True)[:, :-1]
                else:
                    model(inputs, use_cache=False)
            trace.append(len(tokens), token_ids=inputs[0].cpu().numpy(), **recorder.take())
            trace.attention_scale = recorder.attention_scale


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="example:\n  scripts/record/record_transformers.py OLMoE-1B-7B tokens.npz olmoe.moekv.h5 --generate 128\n"
                                     "  moekv trace info --check olmoe.moekv.h5")
    parser.add_argument("model", help="folder of the checkpoint")
    parser.add_argument("tokens", help="token file: npz or HDF5 with token_ids (configs/models/README.md)")
    parser.add_argument("out", help="trace to write")
    parser.add_argument("--generate", type=int, default=0, metavar="N", help="let the model add N tokens to each sequence, greedily")
    parser.add_argument("--no-qkv", action="store_true", help="record the routing alone")
    parser.add_argument("--dtype", default="auto", help="element type of the weights, e.g. float32 (default: the checkpoint's)")
    parser.add_argument("--device", default="cpu", help="e.g. cuda (default: cpu)")
    args = parser.parse_args()
    try:
        import transformers
    except ImportError as e:
        sys.exit(f"{e}: this recorder needs torch and transformers")
    try:
        sequences = read_sequences(args.tokens)
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=args.dtype, attn_implementation="eager")
        except (OSError, ValueError) as e:
            raise Refusal(args.model, f"cannot be loaded: {e}") from None
        record(model.to(args.device).eval(), sequences, args.out, args.generate, not args.no_qkv)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
