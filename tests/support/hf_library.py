"""What the library of Hugging Face itself makes of a checkpoint: its loss per token, in fp32."""
import numpy as np
import torch
import transformers

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)


def load(folder):
    """The model of a folder in fp32, with plain attention."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").to(torch.float32).eval()


def losses(model, tokens):
    """[sequences, tokens - 1] nats of each next token."""
    tokens = torch.tensor(tokens)
    with torch.no_grad():
        logits = model(tokens).logits.double()
    nll = -logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None])[:, :, 0]
    return nll.numpy().astype(np.float32)
