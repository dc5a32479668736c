"""The loader reports every failure at once; our own files come back bit for bit."""

import hashlib

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ddjax.errors import CheckpointError
from ddjax.models import build
from ddjax.models.weights import CIFAR_RESNET, load_net, load_params, read_metadata, save_net

SHAPE = (8, 8, 3)


def small(name="convnet2-w8-batch", classes=4):
    return build(name, image_shape=SHAPE, classes=classes)


def bits(tree):
    return jax.tree.map(lambda a: np.asarray(a).view(np.uint32).tolist(), tree)


TABLE = (
    (r"b(\d)\.conv\.w", r"params/block\1/conv/kernel", "oihw"),
    (r"b(\d)\.conv\.b", r"params/block\1/conv/bias", "same"),
    (r"b(\d)\.bn\.(scale|bias)", r"params/block\1/norm/\2", "same"),
    (r"b(\d)\.bn\.(mean|var)", r"state/block\1/norm/\2", "same"),
    (r"copy\.(\d)", r"params/block\1/conv/bias", "same"),
    (r"fc\.w", "params/head/kernel", "oi"),
    (r"fc\.b", "params/head/bias", "same"),
    (r"steps", None, "same"),
)


def public(classes=4):
    rng = np.random.default_rng(0)
    shapes = {"fc.w": (classes, 32), "fc.b": (classes,)}
    for block, inputs in enumerate((3, 8)):
        shapes |= {f"b{block}.conv.w": (8, inputs, 3, 3), f"b{block}.conv.b": (8,)}
        shapes |= {f"b{block}.bn.{part}": (8,) for part in ("scale", "bias", "mean", "var")}
    tensors = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    return tensors | {"steps": np.array(3)}


def test_every_tensor_lands_in_its_leaf(tmp_path):
    tensors = public()
    save_file(tensors, tmp_path / "a.safetensors")
    params, state = load_params(tmp_path / "a.safetensors", small(), TABLE)
    kernel = tensors["b1.conv.w"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["block1"]["conv"]["kernel"], kernel)
    np.testing.assert_array_equal(params["head"]["kernel"], tensors["fc.w"].T)
    np.testing.assert_array_equal(state["block0"]["norm"]["var"], tensors["b0.bn.var"])
    abstract = jax.eval_shape(small().init, jax.random.key(0))
    assert jax.tree.structure((params, state)) == jax.tree.structure(abstract)


def test_half_precision_is_widened(tmp_path):
    tensors = {name: a.astype(np.float16) for name, a in public().items()}
    save_file(tensors, tmp_path / "a.safetensors")
    params, _ = load_params(tmp_path / "a.safetensors", small(), TABLE)
    assert params["head"]["bias"].dtype == np.float32
    np.testing.assert_array_equal(params["head"]["bias"], tensors["fc.b"].astype(np.float32))


def test_all_failures_are_reported_together(tmp_path):
    tensors = public(classes=7)  # wrong head
    del tensors["b0.bn.mean"], tensors["b1.conv.b"]
    tensors["b0.conv.b"] = np.zeros(8, np.int32)
    tensors["copy.0"] = np.zeros(8, np.float32)
    tensors["ema.decay"] = np.zeros(2, np.float32)
    tensors["b5.conv.w"] = np.zeros((8, 8, 3, 3), np.float32)
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_params(tmp_path / "a.safetensors", small(), TABLE)
    message = str(caught.value)
    for part in (
        "a.safetensors does not fit convnet2-w8-batch (14 leaves):",
        "surplus, 2:",
        "ema.decay (2,)",
        "b5.conv.w (8, 8, 3, 3)",
        "given twice, 1:",
        "copy.0 -> params/block0/conv/bias",
        "missing, 2:",
        "params/block1/conv/bias (8,)",
        "state/block0/norm/mean (8,)",
        "wrong shape, 2:",
        "params/head/kernel: the file has (32, 7), convnet2-w8-batch has (32, 4)",
        "params/head/bias: the file has (7,)",
        "not floating point, 1:",
        "params/block0/conv/bias: int32",
    ):
        assert part in message


def test_long_lists_are_cut_and_counted(tmp_path):
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "a.safetensors")
    net = build("resnet56", image_shape=(32, 32, 3), classes=10)
    with pytest.raises(CheckpointError) as caught:
        load_params(tmp_path / "a.safetensors", net, CIFAR_RESNET)
    message = str(caught.value)
    assert "missing, 277:" in message
    assert "and 257 more" in message
    assert "surplus, 1:" in message


@pytest.mark.parametrize("content", [None, b"", b"not safetensors at all", b"\xff" * 64])
def test_unreadable_files_are_named(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    if content is not None:
        path.write_bytes(content)
    for load in (lambda: load_params(path, small(), TABLE), lambda: load_net(path, small())):
        with pytest.raises(CheckpointError, match=r"broken\.safetensors"):
            load()


def test_truncated_file_is_named(tmp_path):
    path = tmp_path / "cut.safetensors"
    save_net(path, *small().init(jax.random.key(0)))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors cannot be read"):
        load_net(path, small())


@pytest.mark.parametrize("name", ["convnet2-w8-batch", "mlp"])
def test_round_trip_is_bit_exact(tmp_path, name):
    net, path = small(name), tmp_path / "net.safetensors"
    params, state = net.init(jax.random.key(0))
    odd = np.array([-0.0, np.nan, np.inf, 1e-45], np.float32)
    params = params | {"head": params["head"] | {"bias": odd}}
    save_net(path, params, state, metadata={"accuracy": 0.5})
    again = load_net(path, net)
    assert bits(again) == bits((params, state))
    assert jax.tree.structure(again) == jax.tree.structure((params, state))
    assert read_metadata(path) == {"schema": 1, "accuracy": 0.5}
    first = hashlib.sha256(path.read_bytes()).digest()
    save_net(path, *again, metadata={"accuracy": 0.5})
    assert hashlib.sha256(path.read_bytes()).digest() == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_pool_is_kept_stacked(tmp_path):
    net, path = small(), tmp_path / "pool.safetensors"
    pool = jax.vmap(net.init)(jax.random.split(jax.random.key(0), 3))
    save_net(path, *pool)
    assert bits(load_net(path, net, stacked=3)) == bits(pool)
    with pytest.raises(CheckpointError, match=r"has \(3, 8\), convnet2-w8-batch has \(8,\)"):
        load_net(path, net)
    with pytest.raises(CheckpointError, match=r"wrong shape, 14:"):
        load_net(path, net, stacked=4)


def test_another_network_is_refused_with_all_differences(tmp_path):
    path = tmp_path / "net.safetensors"
    save_net(path, *small("convnet2-w8-batch").init(jax.random.key(0)))
    with pytest.raises(CheckpointError) as caught:
        load_net(path, small("convnet3-w8-none", classes=5))
    for part in ("surplus, 8:", "state/block1/norm/var (8,)", "missing, 2:", "wrong shape, 2:"):
        assert part in str(caught.value)


def test_metadata_of_a_foreign_file_is_an_error(tmp_path):
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="was not written by ddjax"):
        read_metadata(tmp_path / "a.safetensors")
