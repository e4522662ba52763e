"""Layers beside torch's, the UNet compiled, and two views in one batch: milliseconds, best of rounds."""

import argparse
import time

import torch
from prettytable import PrettyTable
from torch import nn

import cmems.models
from cmems import ops
from cmems.engine.memory import keep_freed_memory
from cmems.models.layers import ConvNormAct, Dropout, MaxPool2x, Upsample2x, views_in_one_batch
from cmems.precision import computes_bfloat16
from cmems.registry import BACKBONES


def main():
    """Time each in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name holds it")
    parser.add_argument("--float32", action="store_true", help="as on processors that do not compute in bfloat16")
    args = parser.parse_args()
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bfloat16 = computes_bfloat16(device) and not args.float32
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    maps, images = (torch.rand(12, c, args.size, args.size, device=device) for c in (16, 1))
    maps, images = (t.contiguous(memory_format=torch.channels_last) for t in (maps.to(dtype), images))
    unets = [BACKBONES.build(dict(type="UNet", num_classes=4)).to(device).train() for _ in range(2)]
    eager, compiled = (net.to(memory_format=torch.channels_last) for net in unets)
    compiled = torch.compile(compiled)
    twice = torch.cat([images, images])
    coarse = torch.rand(12, 16, args.size // 2, args.size // 2, device=device, dtype=dtype)
    coarse = coarse.contiguous(memory_format=torch.channels_last)
    block = ConvNormAct(16, 16, 1, norm_cfg=dict(type="BN"), act_cfg=dict(type="LeakyReLU"))
    block.conv = nn.Identity()
    block = block.to(device).train()

    def back(function, *inputs):
        leaves = [x.detach().requires_grad_() for x in inputs]
        found = function(*leaves)
        found.backward(found.detach())

    def kernels(on, function, *inputs):
        ops.enable(on)
        back(function, *inputs)
        ops.enable(True)

    def predict(on, block, x):
        ops.enable(on)
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            block(x)
        ops.enable(True)

    def both_ways(net, *views):
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            logits = [net(view) for view in views]
        sum(each.float().square().mean() for each in logits).backward()

    def together():
        with views_in_one_batch([len(images)] * 2, [torch.Generator().manual_seed(i) for i in range(2)]):
            both_ways(eager, twice)

    work = {}
    if ops.why_not() is None and device == "cpu":
        for name, function, inputs in (
            ("norm, activation, dropout", lambda x: block(x, Dropout(0.1)), (maps,)),
            ("upsampling beside a skip", Upsample2x(), (coarse, maps)),
            ("pooling", MaxPool2x(), (maps,)),
        ):
            for label, on in (("torch", False), ("compiled kernel", True)):
                work[f"{name}, both ways, {label}"] = lambda on=on, f=function, i=inputs: kernels(on, f, *i)
        for channels in (16, 64, 256):  # three of the UNet's levels
            layer = ConvNormAct(channels, channels, norm_cfg=dict(type="BN"), act_cfg=dict(type="LeakyReLU")).eval()
            side = args.size * 16 // channels
            x = torch.rand(12, channels, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
            layer = layer.to(memory_format=torch.channels_last)
            for label, on in (("torch", False), ("compiled kernel", True)):
                name = f"convolution, norm, activation, prediction, {channels} channels, {label}"
                work[name] = lambda on=on, layer=layer, x=x: predict(on, layer, x)
    work |= {
        "dropout forward, torch": lambda: nn.Dropout(0.1)(maps),
        "dropout forward, CMEMS": lambda: Dropout(0.1)(maps),
        "UNet forward and backward": lambda: both_ways(eager, images),
        "UNet forward and backward, compiled": lambda: both_ways(compiled, images),
        "UNet, two views one after the other": lambda: both_ways(eager, images, images),
        "UNet, two views in one batch, statistics apart": together,
    }
    table = PrettyTable(["what", "first, ms", "best, ms"])
    for name, function in ((n, f) for n, f in work.items() if args.only in n):
        times = []
        for _ in range(args.rounds + 1):
            began = time.perf_counter()
            function()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(1000 * (time.perf_counter() - began))
        table.add_row([name, f"{times[0]:.1f}", f"{min(times[1:]):.1f}"])
    print(f"12 images of {args.size}x{args.size}, {dtype}; torch {torch.__version__}, {device}")
    print(table)


if __name__ == "__main__":
    assert cmems.models  # registers what is built
    main()
