"""Steps of PyTorch's optimisers, schedules and of torch_ema, for the tests of crates/train.

    python make_training.py > ../../crates/train/tests/golden/torch.json

Needs torch 2.8 and torch_ema 0.3; nothing else. Numbers of float32 runs are written as the doubles that they are.
"""

import json
import math
import warnings

import torch
from torch_ema import ExponentialMovingAverage

warnings.filterwarnings("ignore", category=UserWarning)
torch.manual_seed(11)
STEPS = 6


def numbers(t):
    return t.detach().double().tolist()


def optimizer_case(config, dtype, make):
    """`config` in our words; `make(params, lr)` gives the torch optimiser. Everything in it decays alike."""
    start = {"a": torch.randn(5, dtype=dtype), "b": torch.randn(2, dtype=dtype)}
    params = {name: torch.nn.Parameter(x.clone()) for name, x in start.items()}
    optimizer = make(list(params.values()), config["learning_rate"])
    steps = []
    for t in range(STEPS):
        # The rate changes, gradients shrink (AMSGrad), and in one step a parameter has none.
        rate = config["learning_rate"] * (1.0 if t < 3 else 0.5)
        for group in optimizer.param_groups:
            group["lr"] = rate
        gradients = {}
        for name, p in params.items():
            p.grad = None if (t == 2 and name == "b") else torch.randn(p.shape, dtype=dtype) * 3.0 / (1 + t) ** 2
            gradients[name] = None if p.grad is None else numbers(p.grad)
        if config["clip_norm"] > 0:
            torch.nn.utils.clip_grad_norm_(list(params.values()), config["clip_norm"])
        optimizer.step()
        steps.append({"learning_rate": rate, "gradients": gradients, "after": {n: numbers(p) for n, p in params.items()}})
    return {
        "config": config,
        "dtype": str(dtype).removeprefix("torch."),
        "start": {n: numbers(x) for n, x in start.items()},
        "steps": steps,
    }


def optimizers():
    cases = []
    for dtype in (torch.float64, torch.float32):
        for kind, cls in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
            for amsgrad in (False, True):
                for decay, clip in ((0.0, 0.0), (0.05, 2.5)):
                    if decay == 0.0 and kind == "adamw" and amsgrad:
                        continue
                    config = dict(kind=kind, amsgrad=amsgrad, learning_rate=0.02, betas=[0.9, 0.99], eps=1e-8,
                                  weight_decay=decay, decay=["a", "b"], clip_norm=clip)
                    make = lambda p, lr: cls(p, lr=lr, betas=(0.9, 0.99), eps=1e-8, weight_decay=decay, amsgrad=amsgrad)
                    cases.append(optimizer_case(config, dtype, make))
        for momentum, nesterov in ((0.0, False), (0.8, False), (0.8, True)):
            config = dict(kind="sgd", learning_rate=0.05, momentum=momentum, nesterov=nesterov, weight_decay=0.1,
                          decay=["a", "b"], clip_norm=0.0)
            make = lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=0.1)
            cases.append(optimizer_case(config, dtype, make))
    return cases


def dummy(lr):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def plateaus():
    losses = [1.0, 0.9, 0.95, 0.9, 0.91, 0.92, 0.89995, 0.93, math.nan, 0.94, 0.5, 0.49999, 0.6, 0.7, 0.8, 0.5, 0.6, 0.7]
    losses += [0.4999 - 1e-5 * k for k in range(20)] + [0.45] + [0.46] * 12
    cases = []
    for factor, patience, threshold, mode, cooldown, minimum in (
        (0.8, 3, 1e-4, "rel", 0, 0.0),
        (0.5, 0, 1e-3, "abs", 2, 0.0),
        (0.5, 2, 1e-4, "rel", 1, 2e-3),
        (0.1, 1, 1e-4, "rel", 0, 0.0),
    ):
        optimizer = dummy(0.01)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=factor, patience=patience, threshold=threshold, threshold_mode=mode, cooldown=cooldown, min_lr=minimum)
        rates = []
        for loss in losses:
            schedule.step(loss)
            rates.append(optimizer.param_groups[0]["lr"])
        cases.append(dict(factor=factor, patience=patience, threshold=threshold, threshold_mode=mode, cooldown=cooldown, min_lr=minimum,
                          learning_rate=0.01, losses=[None if math.isnan(x) else x for x in losses], rates=rates))
    return cases


def rates(make, n):
    """The learning rates of the first n steps from 0.01 on."""
    optimizer = dummy(0.01)
    schedule = make(optimizer)
    result = []
    for _ in range(n):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return result


def averages():
    cases = []
    for dtype in (torch.float64, torch.float32):
        for decay, warm_up in ((0.99, True), (0.3, True), (0.9, False)):
            p = torch.nn.Parameter(torch.randn(4, dtype=dtype))
            ema = ExponentialMovingAverage([p], decay=decay, use_num_updates=warm_up)
            weights, found = [numbers(p)], []
            for _ in range(6):
                p.data = p.data + torch.randn(4, dtype=dtype)
                ema.update()
                weights.append(numbers(p))
                found.append(numbers(ema.shadow_params[0]))
            cases.append(dict(dtype=str(dtype).removeprefix("torch."), decay=decay, warm_up=warm_up, weights=weights, averages=found))
    return cases


def main():
    lr = torch.optim.lr_scheduler
    golden = {
        "torch": torch.__version__,
        "optimizers": optimizers(),
        "plateau": plateaus(),
        "ema": averages(),
        "exponential": rates(lambda o: lr.ExponentialLR(o, gamma=0.9993), 12),
        "cosine": rates(lambda o: lr.CosineAnnealingLR(o, T_max=20, eta_min=0.001), 21),
        "restarts_1": rates(lambda o: lr.CosineAnnealingWarmRestarts(o, T_0=4, T_mult=1, eta_min=0.0005), 13),
        "restarts_2": rates(lambda o: lr.CosineAnnealingWarmRestarts(o, T_0=3, T_mult=2), 22),
        "warm_up_cosine": rates(lambda o: lr.SequentialLR(
            o, [lr.LinearLR(o, start_factor=0.2, total_iters=5), lr.CosineAnnealingLR(o, T_max=10)], milestones=[5]), 15),
    }
    print(json.dumps(golden))


if __name__ == "__main__":
    main()
