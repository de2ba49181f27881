#!/usr/bin/python3
"""Turns what SGLang records about routing into a native trace of expert ids. Needs neither SGLang nor torch.

  dumps    files of its expert distribution recorder in mode per_token (expert_distribution_recorder_*.pt)
  replies  replies of /generate with return_routed_experts, one JSON object a line

The recorder names no requests: a row continues the sequence that has just so many tokens and was in the last decoding pass or came after it, in the
order in which they began. Where more sequences fit than there are rows, those that had a row last are taken; such rows are counted and warned of.
With one request at a time (--max-running-requests 1) this is always right. The last token that is sampled is never fed back, so it has no row.
"""
import argparse
import base64
import sys

import numpy as np

import torch_archive
from model_facts import Refusal, read_facts
from native_trace import NativeTrace
from record_vllm import of_moe_layers, replies_of

DECODE, MIXED, IDLE = 2, 3, 4  # values of forward_mode


class Sequence:
    """Rows of one request in the order of its positions."""

    def __init__(self, number):
        self.number, self.tokens, self.experts, self.prompt_tokens, self.last_pass = number, [], [], 0, -1

    def add(self, tokens, experts, decode, at_pass):
        self.tokens += list(tokens)
        self.experts.append(experts)
        self.last_pass = at_pass
        if not decode:
            self.prompt_tokens = len(self.tokens)


def runs_of(record):
    """Position -> (begin, end, decode) of the rows of each request that is there in this pass. A mixed pass extends decoding requests by one."""
    n, extends, mode = len(record["input_ids"]), list(record.get("extend_seq_lens") or []), record["forward_mode"]
    ends = list(range(1, n + 1)) if mode == DECODE or not extends else np.cumsum(extends).tolist()
    if ends and ends[-1] != n:
        raise ValueError(f"extend_seq_lens sum to {ends[-1]} of {n} tokens")
    runs = {}
    for begin, end in zip([0, *ends], ends):
        if end > begin:
            position = record["positions"][begin]
            decode = mode == DECODE or (mode == MIXED and end - begin == 1 and position > 0)
            runs.setdefault(position, []).append((begin, end, decode))
    return runs


def logical(experts, physical_to_logical):
    """[tokens, layers, k] logical ids of physical ones [layers, tokens, k]; -1 stays."""
    layers = np.arange(len(experts))[:, None, None]
    return np.where(experts < 0, -1, physical_to_logical[layers, np.maximum(experts, 0)]).transpose(1, 0, 2)


class Sequences:
    """Puts the rows of one rank's records together: a row at position 0 begins a sequence, one at p continues a sequence of p tokens."""

    def __init__(self, records, physical_to_logical):
        self.all, self.guessed_rows = [], 0
        self._growing, self._last_decode = {}, -1  # sequences by their number of tokens; the last pass that decoded
        for at_pass, record in enumerate(sorted(records, key=lambda r: r["forward_pass_id"])):
            if record["forward_mode"] != IDLE and len(record["input_ids"]) > 0:
                self._add_pass(at_pass, record, logical(np.asarray(record["topk_ids_of_layer"]), physical_to_logical))

    def _add_pass(self, at_pass, record, experts):
        grown = []
        for position, runs in runs_of(record).items():
            chosen = self._begin(len(runs)) if position == 0 else self._continue(position, len(runs))
            if len(chosen) < len(runs):
                raise ValueError(f"pass {record['forward_pass_id']}: position {position} continues no sequence: was its prefix cached (--disable-radix-cache)?")
            for sequence, (begin, end, decode) in zip(chosen, runs):
                sequence.add(record["input_ids"][begin:end], experts[begin:end], decode, at_pass)
            grown += chosen
        for sequence in grown:  # after the pass: a request has one run of rows in it
            self._growing.setdefault(len(sequence.tokens), []).append(sequence)
        if record["forward_mode"] == DECODE:
            self._last_decode = at_pass

    def _begin(self, n):
        begun = [Sequence(len(self.all) + i) for i in range(n)]
        self.all += begun
        return begun

    def _continue(self, position, n):
        """n sequences of so many tokens. What the last decoding pass left out has ended, for that pass takes all that run."""
        fitting = sorted(self._growing.get(position, []), key=lambda s: (s.last_pass, s.number))
        running = [s for s in fitting if s.last_pass >= self._last_decode]
        pool = running if len(running) >= n else fitting
        self.guessed_rows += n if len(pool) > n else 0
        chosen = sorted(pool[-n:], key=lambda s: s.number)
        for sequence in chosen:
            self._growing[position].remove(sequence)
        return chosen


def write_dumps(paths, facts, out):
    with NativeTrace(out, facts, "record_sglang.py", source="SGLang expert distribution recorder") as trace:
        for path in paths:
            dump = torch_archive.load(path)
            try:
                records = dump["records"]
                if records and "topk_ids_of_layer" not in records[0]:
                    raise Refusal(path, "has counts, not the experts of each token", "record with --expert-distribution-recorder-mode per_token")
                sequences = Sequences(records, np.asarray(dump["last_physical_to_logical_map"]))
            except (KeyError, TypeError, ValueError, IndexError) as e:
                advice = "stat dumps have no tokens: record with --expert-distribution-recorder-mode per_token" if isinstance(dump, dict) and "logical_count" in dump else ""
                raise Refusal(path, f"is no recording of mode per_token: {e}", advice) from None
            if sequences.guessed_rows > 0:
                print(f"{path}: warning: {sequences.guessed_rows} rows fit several requests of one length: their order is a guess", file=sys.stderr)
            for sequence in sequences.all:
                experts = of_moe_layers(np.concatenate(sequence.experts), facts, path)
                if experts.shape[2] < facts.top_k or np.any(experts[:, :, facts.top_k:] >= 0):
                    raise Refusal(path, f"has {experts.shape[2]} experts per token, the model chooses {facts.top_k}",
                                  "the recorder keeps eight: models that choose more, or with fused shared experts, cannot be recorded so")
                trace.append(sequence.prompt_tokens, experts[:, :, :facts.top_k], token_ids=sequence.tokens)


def experts_of(reply, facts, where):
    """[tokens, layers, top_k] of the base64 text of little-endian int32, and the number of prompt tokens."""
    try:
        meta = reply["meta_info"]
        values = np.frombuffer(base64.b64decode(meta["routed_experts"], validate=True), "<i4")
        rows = int(meta["prompt_tokens"]) + int(meta["completion_tokens"])
    except (KeyError, TypeError, ValueError) as e:
        raise Refusal(where, f"has no meta_info with routed_experts, prompt_tokens and completion_tokens: {e!r}", "ask with return_routed_experts") from None
    for n in (rows - 1, rows):
        if n > 0 and len(values) == n * facts.n_layers * facts.top_k:
            return values.reshape(n, facts.n_layers, facts.top_k), int(meta["prompt_tokens"])
    raise Refusal(where, f"has {len(values)} ids for {rows} tokens, {facts.n_layers} layers and {facts.top_k} experts each",
                  "does config.json belong to the recording? Ask with routed_experts_start_len 0")


def write_replies(path, facts, out):
    with NativeTrace(out, facts, "record_sglang.py", source="SGLang routed experts") as trace:
        for where, reply in replies_of(path):
            experts, prompt_tokens = experts_of(reply, facts, where)
            trace.append(prompt_tokens, of_moe_layers(experts, facts, where))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="examples:\n  scripts/record/record_sglang.py dumps Qwen3-30B-A3B qwen3.moekv.h5 expert_distribution_recorder_*.pt\n"
                                     "  scripts/record/record_sglang.py replies Qwen3-30B-A3B qwen3.moekv.h5 replies.jsonl")
    parser.add_argument("kind", choices=("dumps", "replies"))
    parser.add_argument("model", help="folder of the checkpoint, or its config.json")
    parser.add_argument("out", help="trace to write")
    parser.add_argument("source", nargs="+", help="dumps: .pt files, one for each rank that holds requests of its own; replies: JSON lines")
    args = parser.parse_args()
    try:
        facts = read_facts(args.model)
        if args.kind == "dumps":
            write_dumps(args.source, facts, args.out)
        elif len(args.source) > 1:
            raise Refusal(args.source[1], "is one file too many: replies come in one file")
        else:
            write_replies(args.source[0], facts, args.out)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
