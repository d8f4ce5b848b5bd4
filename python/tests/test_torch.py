"""Layers of PyTorch in every precision, and recorded models."""

import contextlib
import gc
import types
import weakref

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: recorded models and precisions are NOT tested")

import torch.nn.functional as F  # noqa: E402
from layers import PRECISIONS, TYPES, Tf32Conv, conv2d  # noqa: E402
from torch import nn  # noqa: E402

import resnet_oracle as oracle  # noqa: E402

torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# ---- One layer

@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_convolution_in_every_precision(precision):
    inputs, theirs, stated = conv2d(precision)
    report = oracle.check("conv2d", inputs, theirs, stride=(2, 1), padding=1, computed_in=stated)
    assert len(report.tensors) == 3 and 0 < report.worst.share < 1
    factor = 0.999 if precision in ("f64", "f32") else 0.97
    for name in ("grad_input", "grad_weight"):
        for wrong in (theirs[name] * factor, torch.zeros_like(theirs[name]), theirs[name].roll(1, 0)):
            with pytest.raises(AssertionError, match=f"first failure in the order of execution: {name}"):
                oracle.check("conv2d", inputs, {**theirs, name: wrong}, stride=(2, 1), padding=1, computed_in=stated)


def test_bfloat16_is_not_converted(tmp_path):
    from resnet_oracle import _files
    from safetensors.torch import load_file  # the official reader

    tensors = {"b": torch.randn(3, 4).bfloat16(), "h": torch.randn(2).half(), "n": torch.tensor(3), "t": torch.randn(2, 3).t(), "m": torch.tensor([True])}
    _files.write(str(tmp_path / "t.safetensors"), tensors)
    read = load_file(str(tmp_path / "t.safetensors"))
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and read[name].equal(tensor), name
    assert (_files.read(str(tmp_path / "t.safetensors"))["b"] == tensors["b"].float().numpy()).all()


def layer(kind, dtype):
    """A function that computes a kind of layer with PyTorch."""

    def compute(inputs, settings):
        t = {name: torch.tensor(x) for name, x in inputs.items()}
        t = {name: x.to(dtype) if x.is_floating_point() else x for name, x in t.items()}
        leaves = [name for name in t if name in ("input", "bias") or name == "weight" and kind != "softmax_cross_entropy"]
        x, w, b = (t[name].requires_grad_() if name in leaves else t.get(name) for name in ("input", "weight", "bias"))
        results = {}
        if kind == "conv2d":
            y = F.conv2d(x, w, b, **settings)
        elif kind == "linear":
            y = F.linear(x, w, b)
        elif kind == "batch_norm":
            training, momentum = settings["mode"] == "train", settings["momentum"]
            if momentum is None:  # the average of all batches
                momentum = 1 / (1 + int(t.get("num_batches_tracked", 0)))
            y = F.batch_norm(x, t.get("running_mean"), t.get("running_var"), w, b, training, momentum, settings["eps"])
            if training:
                results = {name: t[name] for name in ("running_mean", "running_var") if name in t}
        elif kind == "global_avg_pool":
            y = x.mean((2, 3))
        elif kind == "softmax_cross_entropy":
            y = F.cross_entropy(x, t["target"], t.get("weight"), **settings)
        else:
            y = getattr(F, {"max_pool": "max_pool2d", "avg_pool": "avg_pool2d"}.get(kind, kind))(x, **settings)
        results["output"] = y
        if "grad_output" in t or kind == "softmax_cross_entropy":
            y.backward(t["grad_output"].reshape(y.shape) if "grad_output" in t else None)
            results.update({f"grad_{name}": t[name].grad for name in leaves})
        return results

    return compute


KINDS = ["conv2d", "batch_norm", "relu", "leaky_relu", "max_pool", "avg_pool", "global_avg_pool", "linear", "softmax_cross_entropy"]


@pytest.mark.parametrize("precision", ["f64", "f32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_pytorch_is_right(kind, precision):
    oracle.fuzz(kind, layer(kind, TYPES[precision]), seeds=30, computed_in=precision)


# ---- A broken module

class LateGate(torch.autograd.Function):
    """ReLU whose gradient passes where x > -2."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp_min(0)

    @staticmethod
    def backward(ctx, dy):
        return dy * (ctx.saved_tensors[0] > -2)


class BrokenReLU(nn.ReLU):
    def forward(self, x):
        return LateGate.apply(x)


class ScaledBias(torch.autograd.Function):
    """A convolution's bias whose gradient is too large by a factor."""

    @staticmethod
    def forward(ctx, bias, factor):
        ctx.factor = factor
        return bias.clone()

    @staticmethod
    def backward(ctx, dy):
        return dy * ctx.factor, None


class BrokenConv(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight, ScaledBias.apply(self.bias, 1.1))


class Block(nn.Module):
    """A residual block with a functional addition and in-place ReLUs."""

    def __init__(self, c, relu=nn.ReLU):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)
        self.conv2, self.bn2 = nn.Conv2d(c, c, 3, padding="same", bias=False), nn.BatchNorm2d(c, momentum=None)
        self.relu1, self.relu2 = nn.ReLU(inplace=True), relu(inplace=True)

    def forward(self, x):
        return self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))) + x)


class Small(nn.Module):
    def __init__(self, conv=nn.Conv2d, relu=nn.ReLU):
        super().__init__()
        self.stem = conv(3, 4, 3, stride=(2, 1), padding=(1, 0))
        self.act = nn.LeakyReLU(0.1)
        self.pool = nn.MaxPool2d(2, 1)
        self.block = Block(4, relu)
        self.down = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False, padding=1)
        self.end = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.0), nn.Linear(4, 5))

    def forward(self, x):
        return self.end(self.down(self.block(self.pool(self.act(self.stem(x))))))


def tf32_forward(self, x, weight, bias):
    padding = 1 if self.padding == "same" else self.padding
    return Tf32Conv.apply(x, weight, self.stride, padding) + (0 if bias is None else bias[:, None, None])


def run(model, precision="f64", **kinds):
    """Records one pass of a model that takes images, in the given precision."""
    torch.manual_seed(0)
    dtype = TYPES.get(precision, torch.float32)
    model = model.to(dtype)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.uniform_(-1.5, 0) if name.endswith("bias") else p.uniform_(0.2, 1)
    x = torch.randn(3, 3, 10, 9, dtype=dtype)
    if precision == "tf32":
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module._conv_forward = types.MethodType(tf32_forward, module)
    context = torch.autocast("cpu", torch.bfloat16) if precision == "autocast" else contextlib.nullcontext()
    with oracle.record(model, **kinds) as dump:
        with context:
            y = model(x)
        (y.float() if precision != "f64" else y).square().sum().backward()
    return dump


# Without float16 instructions PyTorch adds the gradients of a convolution in float16.
STATED = {"tf32": "tf32", "fp16": "fp16,sums=same"}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_right_model(precision):
    found = oracle.compare(run(Small(), precision), computed_in=STATED.get(precision))
    assert found and not found.wrong and found.isolated is None
    names = ["stem", "act", "pool", "block.conv1", "block.bn1", "block.relu1", "block.conv2", "block.bn2", "block.relu2", "down", "end.0", "end.3"]
    assert list(found.modules) == names and list(found.not_judged) == ["end.2"]
    judged = {name: {tensor.name for tensor in report.tensors} for name, report in found.modules.items()}
    assert judged["stem"] == {"output", "grad_input", "grad_weight", "grad_bias"} and judged["block.relu1"] == {"output", "grad_input"}
    assert judged["block.bn1"] == {"output", "grad_input", "grad_weight", "grad_bias", "running_mean", "running_var"} == judged["block.bn2"]
    assert all("grad_input" in tensors for tensors in judged.values())
    assert "all 12 judged modules are right" in found.text and "not judged: end.2 (Dropout)" in found.text


@pytest.mark.parametrize("precision", PRECISIONS)
def test_broken_modules_are_named(precision):
    dump = run(Small(BrokenConv, BrokenReLU), precision)
    with pytest.raises(AssertionError, match=r"2 of 12 modules are wrong: stem, block\.relu2") as caught:
        oracle.compare(dump, computed_in=STATED.get(precision))
    report = caught.value.report
    assert report.wrong == ["stem", "block.relu2"]
    assert report.modules["stem"].worst.name == "grad_bias" and report.modules["block.relu2"].worst.name == "grad_input"
    assert "WRONG  stem (BrokenConv):" in str(caught.value)
    assert str(report) == str(caught.value)


def test_diagnosis_of_a_model():
    class Biased(nn.BatchNorm2d):
        def forward(self, x):
            with torch.no_grad():
                self.running_mean.lerp_(x.mean((0, 2, 3)), 0.1)
                self.running_var.lerp_(x.var((0, 2, 3), unbiased=False), 0.1)
            return F.batch_norm(x, None, None, self.weight, self.bias, True)

    model = Small()
    model.block.bn1 = Biased(4)
    dump = run(model)
    found = oracle.diagnose(dump)
    assert not found and [(m.name, m.module) for m in found.mistakes] == [("running-variance", "block.bn1")]
    assert found.text.startswith("block.bn1 (Biased):\n    ")
    assert oracle.diagnose(run(Small())).right


def test_modules_of_ones_own():
    class MyLinear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.factor = nn.Parameter(torch.randn(5, 4)), 1.0

        def forward(self, x):
            return x @ self.weight.T * self.factor

    def model(factor=1.0):
        model = Small()
        model.end[3] = MyLinear()
        model.end[3].factor = factor
        return model

    assert oracle.compare(run(model()), strict=False).not_judged["end.3"] == "the oracle has no such layer, or `kinds` does not name it"
    assert "end.3" in oracle.compare(run(model(), kinds={MyLinear: "linear"}), strict=False).modules
    assert oracle.compare(run(model(1.01), kinds={MyLinear: "linear"}), raises=False).wrong == ["end.3"]
    assert "stem" in oracle.compare(run(model(), kinds={"stem": None, "end.3": None})).not_judged
    wrong = {"stem": ("conv2d", {"stride": 1})}
    assert oracle.compare(run(model(), kinds=wrong), raises=False).wrong == ["stem"]
    with pytest.raises(oracle.OracleError, match="is not a kind of layer"):
        run(model(), kinds={MyLinear: "lineer"})
    with pytest.raises(oracle.OracleError, match="no module of this name"):
        run(model(), kinds={"end.9": "linear"})


def test_the_model_computes_as_without_the_recorder():
    results = []
    for recorded in (False, True):
        torch.manual_seed(0)
        model, x = Small(), torch.randn(2, 3, 8, 8)
        with oracle.record(model) if recorded else contextlib.nullcontext():
            y = model(x)
            y.square().sum().backward()
        assert not x.requires_grad and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        results.append([y, *(p.grad for p in model.parameters()), *model.buffers()])
    assert all(a.equal(b) for a, b in zip(*results))


def test_a_module_that_is_called_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()

        def forward(self, x):
            return self.relu(self.conv(self.relu(self.conv(x))))

    dump = run(Twice())
    found = oracle.compare(dump, strict=False)
    assert list(found.modules) == ["conv", "relu", "conv#2", "relu#2"]
    assert {tensor.name for tensor in found.modules["conv#2"].tensors} == {"output", "grad_input"}
    assert dump.notes == ["conv and conv#2 use the same weight and bias: the gradient is of all of them, and not judged for one alone"]
    assert f"note: {dump.notes[0]}" in found.text


def test_shared_parameters():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    found = oracle.compare(run(Shared()), strict=False)
    assert "grad_bias" in {t.name for t in found.modules["b"].tensors} and "a and b use the same weight:" in found.text


def test_gradients_that_are_missing_are_zeros():
    class Forgets(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return F.conv2d(x, w)

        @staticmethod
        def backward(ctx, dy):
            x, w = ctx.saved_tensors
            return None, torch.nn.grad.conv2d_weight(x, w.shape, dy)

    class Conv(nn.Conv2d):
        def forward(self, x):
            return Forgets.apply(x, self.weight)

    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), Conv(3, 3, 1, bias=False))
    found = oracle.compare(run(model), raises=False)
    assert found.wrong == ["1"] and found.modules["1"].worst.name == "grad_input"


def test_forward_only_and_frozen():
    model = Small().double().eval()
    with oracle.record(model) as dump, torch.no_grad():
        model(torch.randn(2, 3, 8, 8, dtype=torch.float64))
    found = oracle.compare(dump, strict=False)
    assert found and {tensor.name for tensor in found.modules["stem"].tensors} == {"output"}
    assert any("there was no backward pass" in note for note in dump.notes)
    model = Small().train()
    model.stem.requires_grad_(False)
    assert "grad_weight" not in {tensor.name for tensor in oracle.compare(run(model), strict=False).modules["stem"].tensors}


def test_a_gradient_that_never_arrives():
    class Detached(Block):
        def forward(self, x):
            return self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))).detach())) + x)

    model = Small()
    model.block = Detached(4)
    dump = run(model)
    with pytest.raises(oracle.OracleError, match="no gradient reached block.conv1, block.bn1, block.relu1: judged forward only"):
        oracle.compare(dump)
    assert oracle.compare(dump, strict=False)


def test_a_recording_keeps_no_graph():
    model = Small()
    with oracle.record(model):
        y = model(torch.randn(2, 3, 8, 8))
        y.sum().backward()
    kept = weakref.ref(y)
    del y
    gc.collect()
    assert kept() is None


def test_what_is_between_modules_is_named():
    found = oracle.compare(run(Small()))
    assert "note: what computes the input of block.relu2 is no module, and not judged" in found.text


def test_float32_in_mixed_precision_is_judged_as_float32():
    class Scaled(nn.BatchNorm2d):
        def __init__(self, c, factor):
            super().__init__(c)
            self.factor = factor

        def forward(self, x):
            y = super().forward(x)
            self.running_var = self.running_var * self.factor
            return y

    for factor in (1.0, 0.99):
        model = Small()
        model.block.bn1 = Scaled(4, factor)
        found = oracle.compare(run(model, "autocast"), raises=False)
        assert found.wrong == ([] if factor == 1.0 else ["block.bn1"])


def test_tf32_is_recognised():
    x, w = torch.randn(2, 8, 6, 6), torch.randn(4, 8, 3, 3)
    theirs = {"output": Tf32Conv.apply(x, w, (1, 1), 0)}
    with pytest.raises(AssertionError, match="computed in tf32 everything fits. If your program uses TF32, say so"):
        oracle.check("conv2d", {"input": x, "weight": w}, theirs)


def test_rows_of_more_axes_and_a_model_that_is_a_layer():
    layer = nn.Linear(5, 3).double()
    with oracle.record(layer) as dump:
        layer(torch.randn(2, 7, 5, dtype=torch.float64)).sin().sum().backward()
    report = oracle.compare(dump).modules["Linear"]
    assert {tensor.name for tensor in report.tensors} == {"output", "grad_input", "grad_weight", "grad_bias"}


def test_a_relu_of_rows():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    found = oracle.compare(run(model))
    assert {tensor.name for tensor in found.modules["4"].tensors} == {"output", "grad_input"}
    model[4] = BrokenReLU()
    model.zero_grad()
    assert oracle.compare(run(model), raises=False).wrong == ["4"]


def test_what_is_not_judged():
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.MaxPool2d(2))
    found = oracle.compare(run(model), strict=False)
    assert list(found.modules) == ["3"]
    assert found.not_judged["0"] == "padding_mode='reflect' is not known" and "GELU" in found.text
    dump = run(nn.Sequential(nn.GELU()))
    found = oracle.compare(dump, raises=False)
    assert not found and "no module could be judged" in found.text
    with pytest.raises(oracle.OracleError, match="no module could be judged"):
        oracle.compare(dump)


def test_a_result_of_a_wrong_shape():
    class Cut(nn.Conv2d):
        def forward(self, x):
            return super().forward(x)[:, :, :-1]

    found = oracle.compare(run(nn.Sequential(Cut(3, 3, 3))), raises=False)
    assert found.wrong == ["0"] and found.modules["0"].worst.outcome == "shape"


def test_recorded_wrongly():
    model, x = Small(), torch.randn(2, 3, 8, 8)
    model(x).sum().backward()
    with pytest.raises(oracle.OracleError, match=r"first `stem.weight`: call model.zero_grad\(\)"):
        with oracle.record(model):
            pass
    model.zero_grad(set_to_none=False)
    with oracle.record(model) as dump:
        pass
    assert "no module was called" in oracle.compare(dump, raises=False).text
    with oracle.record(model) as dump:
        model(x).sum().backward()
        model.zero_grad()
    found = oracle.compare(dump, strict=False)
    assert "call zero_grad() after it" in found.text
    with oracle.record(model) as incomplete, pytest.raises(oracle.OracleError, match="after the `with` block"):
        oracle.compare(incomplete)
    with pytest.raises(oracle.OracleError, match="compare expects what `with record"):
        oracle.compare(dump.tensors)
    with pytest.raises(oracle.OracleError, match="no recorded module has a name like `bn"):
        oracle.compare(dump, computed_in={"bn*": "f32"})
    with pytest.raises(ZeroDivisionError), oracle.record(model):
        1 / 0
    assert not any(m._forward_hooks for m in model.modules())


def test_arithmetic_of_modules_and_expected_failures(tmp_path):
    dump = run(Small(BrokenConv), "f32")
    assert oracle.compare(dump, computed_in={"*": "f32", "*bn*": "bf16"}, raises=False).wrong == ["stem"]
    assert oracle.compare(dump, computed_in={"*": "f64", nn.Module: "f32"}, raises=False).wrong == ["stem"]
    with pytest.raises(oracle.OracleError, match="no recorded module is a GELU"):
        oracle.compare(dump, computed_in={"*": "f32", nn.GELU: "tf32"})
    file = tmp_path / "oracle.xfail"
    with pytest.raises(oracle.OracleError, match="oracle.xfail"):  # once, and not for each module
        oracle.compare(dump, xfail=file)
    file.write_text("conv2d grad_bias stride=2*  # known\n")
    assert oracle.compare(dump, xfail=file)
    # What the stem needs is not superfluous in the other convolutions.
    file.write_text("conv2d grad_*\nrelu output\n")
    found = oracle.compare(dump, xfail=file, raises=False)
    assert not found and not found.wrong and found.unexpected == ["line 2: relu output"]
    assert "EXPECTED TO FAIL, PASSED: line 2: relu output" in found.text


# ---- A network

@pytest.fixture(scope="module")
def resnet18():
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed: whole networks are NOT tested")

    def make(precision="f32", broken=None):
        torch.manual_seed(0)
        model = models.resnet18(num_classes=10)
        if broken:
            old = model.layer2[0].relu
            model.layer2[0].relu = broken(inplace=old.inplace)
        return model

    return make


def classify(model, precision):
    torch.manual_seed(1)
    model = model.to(TYPES.get(precision, torch.float32))
    x, target = torch.randn(2, 3, 32, 32, dtype=TYPES.get(precision, torch.float32)), torch.arange(2)
    context = torch.autocast("cpu", torch.bfloat16) if precision == "autocast" else contextlib.nullcontext()
    with oracle.record(model) as dump:
        with context:
            loss = F.cross_entropy(model(x), target)
        loss.backward()
    return dump


def test_resnet18(resnet18):
    dump = classify(resnet18(), "f32")
    assert dump.training and not dump.notes
    found = oracle.compare(dump, model="resnet18")
    assert found and found.isolated and found.end_to_end and not found.not_judged
    assert len(found.isolated.tensors) > 200 and "end to end" in found.text
    assert len(oracle.compare(dump).modules) == 60  # without the connections


def test_tf32_convolutions_of_resnet18(resnet18):
    model = resnet18()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module._conv_forward = types.MethodType(tf32_forward, module)
    dump = classify(model, "f32")
    stated = {"*": "f32", nn.Conv2d: "tf32"}
    assert oracle.compare(dump, computed_in=stated)
    assert oracle.compare(dump, model="resnet18", computed_in=stated)
    assert not oracle.compare(dump, model="resnet18", computed_in="f32", raises=False)


def test_a_lost_gradient_of_a_projection(resnet18):
    model = resnet18()
    model.layer3[0].downsample.register_forward_hook(lambda module, x, y: y.detach())
    with pytest.raises(oracle.OracleError, match="no gradient reached layer3.0.downsample.0, layer3.0.downsample.1"):
        oracle.compare(classify(model, "f32"), model="resnet18", end_to_end=False)


@pytest.mark.parametrize("precision", ["f64", "bf16", "autocast"])
def test_the_modules_of_resnet18(resnet18, precision):
    found = oracle.compare(classify(resnet18(), precision), model="resnet18", end_to_end=False)
    assert found and len(found.isolated.tensors) > 200 and found.end_to_end is None


class Functional(nn.Module):
    """A basic block whose additions and ReLUs are functions."""

    def __init__(self, block):
        super().__init__()
        for name, module in block.named_children():
            if name != "relu":
                setattr(self, name, module)
        self.factor = 1.0

    def forward(self, x):
        shortcut = self.downsample(x) if getattr(self, "downsample", None) is not None else x
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut * self.factor)


@pytest.mark.parametrize("precision", ["f64", "f32", "autocast"])
def test_functional_additions(resnet18, precision):
    model = resnet18()
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        for i in range(len(layer)):
            layer[i] = Functional(layer[i])
    found = oracle.compare(classify(model, precision), model="resnet18", end_to_end=False)
    judged = {tensor.name for tensor in found.isolated.tensors}
    assert found and not found.not_judged and {"output.layer1.1.relu#2", "grad_output.layer1.0.relu#2"} <= judged
    # An addition that is wrong is none of a module alone.
    model.layer1[1].factor = 1.001 if precision != "autocast" else 1.1
    model.zero_grad()
    found = oracle.compare(classify(model, precision), model="resnet18", end_to_end=False, raises=False)
    assert {"layer1.1.relu#2", "layer1.1.conv1 + layer1.1.add"} <= set(found.wrong)


def test_a_broken_resnet18(resnet18):
    dump = classify(resnet18(broken=BrokenReLU), "f32")
    with pytest.raises(AssertionError) as caught:
        oracle.compare(dump, model="resnet18", end_to_end=False)
    assert caught.value.report.wrong and all("layer2.0" in name for name in caught.value.report.wrong)
    with pytest.raises(oracle.OracleError):
        oracle.compare(dump, model="resnet81")
    with pytest.raises(oracle.OracleError):
        oracle.compare(dump, model="resnet34")


def test_diagnosis_of_a_network_names_wrong_modules(resnet18):
    dump = classify(resnet18(), "f32")
    assert oracle.diagnose(dump, model="resnet18").right
    dump.tensors["grad_layer2.0.bn1.weight"] *= 0.999  # end to end, within what rounding does to it
    found = oracle.diagnose(dump, model="resnet18")
    assert not found.right and "wrong modules, each for what it was given: layer2.0.bn1" in found.text


def test_a_saved_dump(resnet18, tmp_path):
    import subprocess

    classify(resnet18(), "f32").save(tmp_path)
    files = {name: str(tmp_path / f"{name}.safetensors") for name in ("theirs", "weights", "batch")}
    arguments = ["check", files["theirs"], "--isolate", "model", "--model", "resnet18", "--weights", files["weights"], "--in", files["batch"]]
    assert subprocess.run([oracle.command(), "oracle", *arguments]).returncode == 0


def test_what_was_not_judged_is_no_verdict():
    model = Small()
    with oracle.record(model) as dump:
        model(torch.randn(2, 3, 8, 8))
    with pytest.raises(oracle.OracleError, match="no backward pass[^$]*strict=False"):
        oracle.compare(dump)
    dump = run(Small())
    with pytest.raises(oracle.OracleError, match="tf23"):  # not "not judged"
        oracle.compare(dump, computed_in={"*": "f32", "*stem*": "tf23"})
    with pytest.raises(oracle.OracleError, match="record expects a torch.nn.Module"):
        with oracle.record(lambda x: x):
            pass
    with pytest.raises(oracle.OracleError, match="the kind must be a name"):
        oracle.check(nn.Conv2d, {}, {})


def test_a_page_is_written_again(tmp_path):
    dump = run(Small())
    for _ in range(2):
        assert oracle.compare(dump, html=tmp_path / "pages")
    assert (tmp_path / "pages" / "stem.html").is_file()
