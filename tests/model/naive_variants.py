"""The four models of the paper written out once more, in numpy and float64, from a tree of scenic's parameters.

One loop a token group, no grouping by reshapes that the package shares: the reference for weights, order and attention.
"""

from typing import Any

import numpy as np

VARIANTS = (
    "spacetime",
    "factorized_encoder",
    "factorized_self_attention_block",
    "factorized_dot_product_attention",
)


def random_tree(variant: str, rng: np.random.Generator, **sizes: Any) -> dict[str, np.ndarray]:
    """A tree of random parameters in scenic's names; sizes as keywords."""
    sizes = {
        "t": 2, "h": 2, "w": 2, "tubelet": (2, 4, 4), "width": 12, "heads": 4, "mlp": 20, "layers": 2,
        "temporal": 2, "classes": 5, "baseline": False, "cls": True, **sizes,
    }  # fmt: skip
    width, heads = sizes["width"], sizes["heads"]
    tree: dict[str, np.ndarray] = {}

    def put(path: str, *shape: int) -> None:
        tree[path] = rng.normal(0, 0.3, shape).astype(np.float32)

    def norm(path: str) -> None:
        put(f"{path}/bias", width)
        tree[f"{path}/scale"] = (1 + rng.normal(0, 0.2, width)).astype(np.float32)

    def dense(path: str, inner: int, outer: int) -> None:
        put(f"{path}/kernel", inner, outer)
        put(f"{path}/bias", outer)

    def attention(path: str) -> None:
        for name in ("query", "key", "value"):
            put(f"{path}/{name}/kernel", width, heads, width // heads)
            put(f"{path}/{name}/bias", heads, width // heads)
        put(f"{path}/out/kernel", heads, width // heads, width)
        put(f"{path}/out/bias", width)

    def encoder(name: str, layers: int, positions: int) -> None:
        put(f"{name}/posembed_input/pos_embedding", 1, positions, width)
        for layer in range(layers):
            block = f"{name}/encoderblock_{layer}"
            if variant == "factorized_self_attention_block":
                for axis in ("time", "space"):
                    norm(f"{block}/LayerNorm_{axis}")
                    attention(f"{block}/MultiHeadDotProductAttention_{axis}")
                norm(f"{block}/LayerNorm_mlp")
                mlp = f"{block}/MlpBlock"
            else:
                norm(f"{block}/LayerNorm_0")
                attention(f"{block}/MultiHeadDotProductAttention_0")
                norm(f"{block}/LayerNorm_1")
                mlp = f"{block}/MlpBlock_0"
            dense(f"{mlp}/Dense_0", width, sizes["mlp"])
            dense(f"{mlp}/Dense_1", sizes["mlp"], width)
        norm(f"{name}/encoder_norm")

    put("embedding/kernel", *sizes["tubelet"], 3, width)
    put("embedding/bias", width)
    places = sizes["h"] * sizes["w"]
    if variant == "factorized_encoder":
        put("cls_SpatialTransformer", 1, 1, width)
        encoder("SpatialTransformer", sizes["layers"], 1 + places)
        if not sizes["baseline"]:
            put("cls_TemporalTransformer", 1, 1, width)
            encoder("TemporalTransformer", sizes["temporal"], 1 + sizes["t"])
    else:
        has_cls = variant == "spacetime" and sizes["cls"]
        if has_cls:
            put("cls", 1, 1, width)
        encoder("Transformer", sizes["layers"], int(has_cls) + sizes["t"] * places)
    dense("output_projection", width, sizes["classes"])
    return tree


def layer_norm(x, tree, path):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-6) * tree[f"{path}/scale"] + tree[f"{path}/bias"]


def heads_of(x, tree, path):
    """(head, token, d_head) queries, keys and values of one sequence."""
    return [
        np.einsum("td,dhe->hte", x, tree[f"{path}/{name}/kernel"]) + tree[f"{path}/{name}/bias"][:, None]
        for name in ("query", "key", "value")
    ]


def softmax(scores):
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)


def attend(x, tree, path, groups_of_head):
    """Attention of one sequence, and each head's dense pattern; ``groups_of_head(head)`` lists who sees whom."""
    q, k, v = heads_of(x, tree, path)
    patterns = np.zeros((len(q), len(x), len(x)))
    for head in range(len(q)):
        for group in groups_of_head(head):
            scores = q[head][group] @ k[head][group].T / np.sqrt(q.shape[-1])
            patterns[head][np.ix_(group, group)] = softmax(scores)
    context = patterns @ v
    return np.einsum("hte,hed->td", context, tree[f"{path}/out/kernel"]) + tree[f"{path}/out/bias"], patterns


def mlp(x, tree, path):
    x = x @ tree[f"{path}/Dense_0/kernel"] + tree[f"{path}/Dense_0/bias"]
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x @ tree[f"{path}/Dense_1/kernel"] + tree[f"{path}/Dense_1/bias"]


def everything(count):
    return lambda head: [list(range(count))]


def groups(axis, t, places):
    if axis == "time":
        return [[time * places + place for time in range(t)] for place in range(places)]
    return [[time * places + place for place in range(places)] for time in range(t)]


def blocks(x, tree, name, layers, groups_of_head, patterns):
    for layer in range(layers):
        block = f"{name}/encoderblock_{layer}"
        path = f"{block}/MultiHeadDotProductAttention_0"
        added, pattern = attend(layer_norm(x, tree, f"{block}/LayerNorm_0"), tree, path, groups_of_head)
        patterns.append(pattern)
        x = x + added
        x = x + mlp(layer_norm(x, tree, f"{block}/LayerNorm_1"), tree, f"{block}/MlpBlock_0")
    return layer_norm(x, tree, f"{name}/encoder_norm")


def tubelets(clip, tree):
    """(frames, height, width, channel) → (t, places, d_model), one tubelet at a time."""
    kernel = tree["embedding/kernel"]
    f, r, c = kernel.shape[:3]
    t, h, w = clip.shape[0] // f, clip.shape[1] // r, clip.shape[2] // c
    out = np.zeros((t, h * w, kernel.shape[-1]))
    for i in range(t):
        for y in range(h):
            for x in range(w):
                part = clip[i * f : (i + 1) * f, y * r : (y + 1) * r, x * c : (x + 1) * c]
                out[i, y * w + x] = np.tensordot(part, kernel, 4) + tree["embedding/bias"]
    return out


def naive_logits(variant, tree, clip, order="time_space", baseline=False):
    """Logits of one clip (frames, height, width, channel), and each attention layer's dense patterns.

    The patterns of a factorised encoder are, for each spatial layer, a list of one a time, then those of the temporal
    layers.
    """
    tree = {path: leaf.astype(np.float64) for path, leaf in tree.items()}
    tokens = tubelets(clip.astype(np.float64), tree)
    t, places, _ = tokens.shape
    layers = 1 + max(int(path.split("encoderblock_")[1].split("/")[0]) for path in tree
                     if "encoderblock_" in path and not path.startswith("Temporal"))  # fmt: skip
    patterns: list[Any] = []
    if variant == "factorized_encoder":
        frames, spatial = [], []
        for time in range(t):
            x = np.concatenate([tree["cls_SpatialTransformer"][0], tokens[time]])
            x = x + tree["SpatialTransformer/posembed_input/pos_embedding"][0]
            mine: list[Any] = []
            x = blocks(x, tree, "SpatialTransformer", layers, everything(len(x)), mine)
            frames.append(x[0])
            spatial.append(mine)
        patterns = [list(layer) for layer in zip(*spatial, strict=True)]
        if baseline:
            summary = np.mean(frames, axis=0)
        else:
            x = np.concatenate([tree["cls_TemporalTransformer"][0], np.stack(frames)])
            x = x + tree["TemporalTransformer/posembed_input/pos_embedding"][0]
            temporal = len({path.split("/")[1] for path in tree if path.startswith("TemporalTransformer/encoderblock")})
            summary = blocks(x, tree, "TemporalTransformer", temporal, everything(len(x)), patterns)[0]
        return summary @ tree["output_projection/kernel"] + tree["output_projection/bias"], patterns
    x = tokens.reshape(t * places, -1)
    if "cls" in tree:
        x = np.concatenate([tree["cls"][0], x])
    x = x + tree["Transformer/posembed_input/pos_embedding"][0]
    if variant == "factorized_self_attention_block":
        for layer in range(layers):
            block = f"Transformer/encoderblock_{layer}"
            for axis in order.split("_"):
                who = groups(axis, t, places)
                path = f"{block}/MultiHeadDotProductAttention_{axis}"
                added, pattern = attend(
                    layer_norm(x, tree, f"{block}/LayerNorm_{axis}"), tree, path, lambda head, who=who: who
                )
                patterns.append(pattern)
                x = x + added
            x = x + mlp(layer_norm(x, tree, f"{block}/LayerNorm_mlp"), tree, f"{block}/MlpBlock")
        x = layer_norm(x, tree, "Transformer/encoder_norm")
    else:
        if variant == "spacetime":
            who_sees = everything(len(x))
        else:
            half = tree["Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"].shape[1] // 2
            who_sees = lambda head: groups("time" if head < half else "space", t, places)  # noqa: E731
        x = blocks(x, tree, "Transformer", layers, who_sees, patterns)
    summary = x[0] if "cls" in tree else x.mean(axis=0)
    return summary @ tree["output_projection/kernel"] + tree["output_projection/bias"], patterns
