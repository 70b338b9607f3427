"""LSTM, GRU and Elman networks: gates constant, the signal takes all (Arras et al. 2017)."""

import pytest
import torch
from torch import Tensor, nn

from zsu_fast.lrp import Composite, UncoveredFunctionError, Zero, relevance

ZERO = Composite(Zero(), Zero())
KINDS = {
    "lstm": nn.LSTM(4, 6),
    "deep": nn.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True),
    "projected": nn.LSTM(4, 6, proj_size=3, batch_first=True),
    "no bias": nn.GRU(4, 6, bias=False, batch_first=True),
    "gru": nn.GRU(4, 6, num_layers=2, bidirectional=True),
    "tanh": nn.RNN(4, 6, batch_first=True),
    "relu": nn.RNN(4, 6, nonlinearity="relu", bidirectional=True),
}


class Classifier(nn.Module):
    """Reads sequences [N, steps, 4] and answers from all outputs and the last states."""

    def __init__(self, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        outputs, last = self.rnn(x if self.rnn.batch_first else x.transpose(0, 1))
        outputs = outputs.mean(1 if self.rnn.batch_first else 0)
        last = last if isinstance(last, Tensor) else last[1]
        return outputs[:, :3] + last[-1, :, :3]


@pytest.mark.parametrize("kind", KINDS)
def test_the_forward_pass_is_the_models(kind: str) -> None:
    model = Classifier(KINDS[kind].double())
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    found = relevance(model, x, 1)
    torch.testing.assert_close(found.logits, model(x).detach())
    assert set(found.neurons) == {f"rnn.{n}" for n, _ in model.rnn.named_parameters() if "weight" in n}
    assert all(units.shape[0] == 3 for units in found.neurons.values())


@pytest.mark.parametrize("kind", KINDS)
def test_without_biases_nothing_is_lost(kind: str) -> None:
    model = Classifier(KINDS[kind].double())
    state = {name: p.detach() * ("bias" not in name) for name, p in model.named_parameters()}
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    found = relevance(lambda x: torch.func.functional_call(model, state, x), x, 1, composite=ZERO)
    torch.testing.assert_close(found.input.sum((1, 2)), found.logits[:, 1])


def test_lstm_is_gradient_times_input_with_its_gates_detached() -> None:
    cell, head = nn.LSTMCell(4, 6).double(), nn.Linear(6, 3).double()
    x = torch.randn(2, 5, 4, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        hidden, state = torch.zeros(2, 2, 6, dtype=x.dtype)
        for now in x.unbind(1):
            hidden, state = cell(now, (hidden, state))
        return head(hidden)

    def by_hand(x: Tensor) -> Tensor:
        def tanh(z: Tensor) -> Tensor:
            return z * (z.tanh() / z).detach()  # R_in = R_out

        hidden, state = torch.zeros(2, 2, 6, dtype=x.dtype)
        for now in x.unbind(1):
            gates = now @ cell.weight_ih.T + cell.bias_ih + hidden @ cell.weight_hh.T + cell.bias_hh
            i, f, g, o = gates.chunk(4, 1)
            state = f.sigmoid().detach() * state + i.sigmoid().detach() * tanh(g)
            hidden = o.sigmoid().detach() * tanh(state)
        return head(hidden)

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(by_hand(leaf)[:, 1].sum(), leaf)
    found = relevance(model, x, 1, composite=ZERO)
    torch.testing.assert_close(found.input, gradient * x)
    torch.testing.assert_close(found.logits, by_hand(x).detach())


def test_packed_sequences_and_active_dropout_are_refused() -> None:
    lstm = nn.LSTM(4, 3, num_layers=2, dropout=0.5, batch_first=True)

    def packed(x: Tensor) -> Tensor:
        return lstm(nn.utils.rnn.pack_padded_sequence(x, torch.tensor([3, 2]), batch_first=True))[1][0][-1]

    x = torch.randn(2, 3, 4)
    with pytest.raises(ValueError, match=r"eval\(\)"):
        relevance(lambda x: lstm(x)[0].sum(1), x)
    lstm.eval()
    with pytest.raises(UncoveredFunctionError, match="lstm|pack"):
        relevance(packed, x)
