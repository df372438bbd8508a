"""A ViViT's forward written out step by step, eager, with every hook point's value by its name."""

import torch


def trace(model, pixels):
    """Name → what should stand at each hook point, and the logits; joint attention, no dropout, no head mask."""
    embed, seen = model.embed, {}
    tokens = embed.projection(pixels.transpose(1, 2)).flatten(2).transpose(1, 2)
    seen["hook_embed"] = torch.cat((embed.cls_token.expand(len(pixels), -1, -1), tokens), dim=1)
    seen["hook_pos_embed"] = embed.position.expand(len(pixels), -1, -1)
    x = seen["hook_embed"] + seen["hook_pos_embed"]
    for layer, block in enumerate(model.blocks):
        here = f"blocks.{layer}"
        seen[f"{here}.hook_resid_pre"] = x
        h = _norm(block.ln1, x, f"{here}.ln1", seen)
        attn = block.attn
        heads = lambda linear: linear(h).unflatten(-1, (attn.num_heads, attn.head_dim))  # noqa: B023, E731
        q, k, v = heads(attn.q), heads(attn.k), heads(attn.v)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / attn.head_dim**0.5
        pattern = scores.softmax(-1)
        z = torch.einsum("bhqk,bkhd->bqhd", pattern, v)
        weight = attn.o.weight.unflatten(1, (attn.num_heads, attn.head_dim))
        result = torch.einsum("bqhd,mhd->bqhm", z, weight)
        out = result.sum(2) + attn.o.bias
        names = {"q": q, "k": k, "v": v, "attn_scores": scores, "pattern": pattern, "z": z, "result": result}
        seen |= {f"{here}.attn.hook_{name}": value for name, value in names.items()}
        seen[f"{here}.hook_attn_out"] = out
        x = seen[f"{here}.hook_resid_mid"] = x + out
        h = _norm(block.ln2, x, f"{here}.ln2", seen)
        pre = seen[f"{here}.mlp.hook_pre"] = block.mlp.fc1(h)
        post = seen[f"{here}.mlp.hook_post"] = block.mlp.activation(pre)
        seen[f"{here}.hook_mlp_out"] = block.mlp.fc2(post)
        x = seen[f"{here}.hook_resid_post"] = x + seen[f"{here}.hook_mlp_out"]
    return seen, model.classifier(_norm(model.ln_final, x, "ln_final", seen)[:, 0])


def _norm(norm, x, name, seen):
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    seen[f"{name}.hook_scale"] = scale
    seen[f"{name}.hook_normalized"] = centred / scale * norm.weight + norm.bias
    return seen[f"{name}.hook_normalized"]


def lively(kind, config):
    """A model in evaluation mode whose biases, positions and LayerNorm weights are random too."""
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2 or parameter.shape[0] == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model
