"""What the library of Hugging Face itself makes of a checkpoint: its loss per token, in fp32."""
import numpy as np


def load(folder):
    """The model of a folder in fp32, with plain attention."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.to(torch.float32).eval()


def losses(model, tokens):
    """[sequences, tokens - 1] nats of each next token, and the logits [sequences, tokens, vocabulary]."""
    import torch

    with torch.no_grad():
        logits = model(torch.tensor(tokens)).logits.double()
    nll = -logits.log_softmax(-1)[:, :-1].gather(2, torch.tensor(tokens)[:, 1:, None])[:, :, 0]
    return nll.numpy().astype(np.float32), logits.numpy()
