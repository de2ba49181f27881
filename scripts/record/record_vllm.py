#!/usr/bin/python3
"""Turns the routed experts that vLLM returns (--enable-return-routed-experts) into a native trace of expert ids.

  run      starts vLLM on a token file, lets it generate and writes the trace (needs vLLM)
  replies  reads replies of a vLLM server, one JSON object a line (needs nothing)

The last token that is sampled is never fed back, so it has no row. Layers without experts, which vLLM fills with zeros, are left out.
"""
import argparse
import base64
import io
import json
import sys

import numpy as np

from model_facts import Refusal, read_facts
from native_trace import NativeTrace
from token_file import read_sequences


def field(thing, name):
    """A member of a reply, which is an object of the library or JSON."""
    return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)


def experts_of(value, where):
    """[tokens, layers, top_k] of an array, nested lists, or the base64 text of an .npy file; None where there is none."""
    if value is None:
        return None
    try:
        if isinstance(value, str):
            value = np.load(io.BytesIO(base64.b64decode(value, validate=True)), allow_pickle=False)
        array = np.asarray(value)
        if array.ndim != 3 or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"{array.dtype} of shape {list(array.shape)} is not [tokens, layers, top_k]")
    except (ValueError, EOFError, OSError) as e:
        raise Refusal(where, f"routed_experts cannot be read: {e}") from None
    return array.astype("i4")


def of_moe_layers(experts, facts, where):
    """Rows of the layers with experts, whether the recording has all layers or those alone."""
    if experts.shape[1] == facts.n_layers:
        return experts[:, facts.moe_layers]
    if experts.shape[1] != len(facts.moe_layers):
        raise Refusal(where, f"has {experts.shape[1]} layers, the model {facts.n_layers} and {len(facts.moe_layers)} with experts",
                      "does config.json belong to the recording?")
    return experts


def sequences_of(reply, where):
    """(prompt token ids, generated token ids, experts) of each completion of one reply; prompt routing may come apart from the completion's."""
    prompt = field(reply, "prompt_token_ids")
    prompt_experts = experts_of(field(reply, "prompt_routed_experts"), where)
    completions = field(reply, "choices") if isinstance(reply, dict) else field(reply, "outputs")
    for completion in completions or []:
        experts = experts_of(field(completion, "routed_experts"), where)
        output = field(completion, "token_ids")
        if experts is None and prompt_experts is None:
            raise Refusal(where, "has no routed_experts", "start vLLM with enable_return_routed_experts")
        if prompt is None or output is None:
            raise Refusal(where, "has no prompt_token_ids or token_ids", "ask the server for them: return_token_ids")
        if prompt_experts is not None:
            experts = prompt_experts if experts is None else np.concatenate([prompt_experts, experts])
        yield list(prompt), list(output), experts


def write_trace(replies, facts, path):
    """Writes the completions of (place, reply) pairs."""
    with NativeTrace(path, facts, "record_vllm.py", source="vLLM routed experts") as trace:
        for where, reply in replies:
            for prompt, output, experts in sequences_of(reply, where):
                tokens = prompt + output
                if len(experts) not in (len(tokens), len(tokens) - 1):
                    raise Refusal(where, f"has {len(experts)} rows of experts for {len(prompt)} + {len(output)} tokens",
                                  "with prefix caching or preemption rows may be lost: record without")
                trace.append(len(prompt), of_moe_layers(experts, facts, where), token_ids=tokens[:len(experts)])


def replies_of(path):
    """(place, object) of each line."""
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    reply = json.loads(line)
                    if not isinstance(reply, dict):
                        raise ValueError("no object")
                    yield f"{path}:{number}", reply
    except OSError as e:
        raise Refusal(path, f"cannot be read: {e.strerror}") from None
    except (ValueError, RecursionError) as e:
        raise Refusal(path, f"is not one JSON object a line: {e}") from None


def run(args):
    try:
        import vllm
    except ImportError as e:
        sys.exit(f"{e}: 'run' needs vLLM; 'replies' does not")
    prompts = [{"prompt_token_ids": [int(t) for t in tokens]} for tokens in read_sequences(args.source)]
    engine = vllm.LLM(model=args.model, enable_return_routed_experts=True, enable_prefix_caching=False, skip_tokenizer_init=True,
                      tensor_parallel_size=args.tensor_parallel)
    outputs = engine.generate(prompts, vllm.SamplingParams(temperature=0, max_tokens=args.generate, detokenize=False))
    return [(f"request {i}", output) for i, output in enumerate(outputs)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="examples:\n  scripts/record/record_vllm.py run Qwen3-30B-A3B tokens.npz qwen3.moekv.h5 --generate 256\n"
                                     "  scripts/record/record_vllm.py replies Qwen3-30B-A3B replies.jsonl qwen3.moekv.h5")
    parser.add_argument("kind", choices=("run", "replies"))
    parser.add_argument("model", help="folder of the checkpoint (replies: its config.json is enough)")
    parser.add_argument("source", help="run: token file (npz or HDF5 with token_ids); replies: JSON lines")
    parser.add_argument("out", help="trace to write")
    parser.add_argument("--generate", type=int, default=128, metavar="N", help="run: tokens to generate (default: %(default)s)")
    parser.add_argument("--tensor-parallel", type=int, default=1, metavar="N", help="run: GPUs (default: %(default)s)")
    args = parser.parse_args()
    try:
        facts = read_facts(args.model)
        write_trace(run(args) if args.kind == "run" else replies_of(args.source), facts, args.out)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
