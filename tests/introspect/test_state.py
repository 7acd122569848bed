"""A pass on meta tensors leaves nothing of it behind in the network."""

import gc
import weakref

import pytest
import torch
from torch import nn

from convblocks import receptive_field, summary


class Keeping(nn.Module):
    """A network that notes what it does, in every way that a module can."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.last = self.made = None
        self.maps, self.named = [], {}

    def forward(self, x):
        self.calls = self.calls + 1
        self.last = self.conv(x)
        self.maps.append(self.last)
        self.named["last"] = self.last
        self.new = self.last.relu()
        if self.made is None:
            self.made = torch.ones(1)
        return self.new * self.made


@pytest.mark.parametrize("ask", [summary, receptive_field])
def test_what_a_network_notes_is_what_it_was(ask) -> None:
    model = Keeping().eval()
    keys = list(vars(model)), list(model.state_dict())
    ask(model, (3, 16, 16))
    assert (list(vars(model)), list(model.state_dict())) == keys
    assert model.calls == 0
    assert model.calls.device.type == "cpu"
    assert (model.last, model.made, model.maps, model.named) == (None, None, [], {})
    model(torch.zeros(1, 3, 16, 16))
    assert model.calls == 1
    assert len(model.maps) == 1


class Picking(nn.Module):
    """Picks every other column, of which a list of constants tells."""

    def forward(self, x):
        return x[..., 2 * torch.arange(x.shape[-1] // 2)]


def test_nothing_is_kept_after_the_table() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Picking())
    held = weakref.ref(model)
    running = gc.isenabled()
    gc.disable()
    try:
        assert summary(model, (3, 8, 8)).text(120)
        del model
        # Without a search for garbage.
        assert held() is None
    finally:
        if running:
            gc.enable()
