"""The yardstick is the network that its author describes, and train.py finds it by its name."""

import networks
import timm
import tiniest
import torch

import convblocks as cb


def test_parameters_and_cost_are_the_published_ones():
    network = timm.create_model("tiniest")
    assert sum(parameter.numel() for parameter in network.parameters()) == 97_530
    assert "MACs 43,878,176" in str(cb.summary(network, (3, 32, 32)))
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_it_is_none_of_the_networks_that_are_told_of():
    assert tiniest.NETWORKS == ("tiniest",)
    assert not set(tiniest.NETWORKS) & set(networks.NETWORKS)
