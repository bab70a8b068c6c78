"""Train a PyTorch neural ODE twice, without and with `sol.penalty`, and count evaluations."""

import torch

import ndereg.torch as nde


class Dynamics(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(3, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2)
        )

    def forward(self, t, y):
        return self.net(torch.cat([y, t.expand(len(y), 1)], dim=1))


def rings(count, generator):
    """Return points of a disc (label 0) and of the ring around it (label 1)."""
    labels = torch.arange(count) % 2
    radius = torch.rand(count, generator=generator) * 0.5 + labels
    angle = torch.rand(count, generator=generator) * 2 * torch.pi
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    return points, labels.float()


def train(regularizer, weight, steps=150):
    torch.manual_seed(0)
    field, head = Dynamics(), torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam([*field.parameters(), *head.parameters()], lr=0.02)
    points, labels = rings(128, torch.Generator().manual_seed(0))
    for step in range(steps):
        sol = nde.solve(field, (0.0, 1.0), points, rtol=1e-5, atol=1e-5, regularizer=regularizer)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(sol.ys)[:, 0], labels)
        optimizer.zero_grad()
        (loss + weight(step) * sol.penalty).backward()
        optimizer.step()
    with torch.no_grad():
        sol = nde.solve(field, (0.0, 1.0), points, rtol=1e-5, atol=1e-5)
        accuracy = ((head(sol.ys)[:, 0] > 0) == (labels > 0.5)).float().mean().item()
    return sol.stats.nfev, accuracy


def main():
    plain = train(None, nde.Constant(0.0))
    regularized = train(nde.ErrorEstimate(), nde.ExponentialDecay(1.0, 0.5, steps=150))
    for name, (nfev, accuracy) in (("plain", plain), ("regularized", regularized)):
        print(f"{name:12} {nfev:4d} evaluations, accuracy {accuracy:.3f}")
    assert regularized[0] < plain[0]


if __name__ == "__main__":
    main()
