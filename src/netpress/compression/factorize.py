"""The `factorize` stage: EigenDamage, fine-tuning and regrowth in turns, until a target or the gate.

Wang et al., "EigenDamage: Structured Pruning in the Kronecker-Factored Eigenbasis" (arXiv 1905.05934), and the way in
which Wave Computing compressed PyramidNet-272 with it in 2019. `netpress.compression.factorization` has the method.

    02-factorize/metrics.jsonl            one line a finished round, the first (round 0) of the network as it came
                 round-1/metrics.jsonl    the round's training
                         deleted.json     what the factorization deleted, and where: regrowth asks for it
                         network.netpress the round's result; a round that has it is never done again
"""

from dataclasses import replace
from typing import Any

import torch

from netpress.compression.factorization.curvature import Curvature, layers_of, measure_curvature
from netpress.compression.factorization.layers import find_candidates
from netpress.compression.factorization.planning import plan
from netpress.compression.factorization.regrowth import Deleted, count_deleted, draw_places, regrow
from netpress.compression.factorization.selection import Ranking, State, Way, count_kept, find_way, first_step
from netpress.compression.factorization.settings import FactorizeSettings
from netpress.compression.factorization.sizes import Sizes, count_parameters, measure_score
from netpress.compression.factorization.surgery import cut
from netpress.data import Images
from netpress.errors import UserError
from netpress.evaluation import evaluate
from netpress.files import atomic_write, read_object
from netpress.folders.stage import NETWORK, round_name
from netpress.network import Network, copy, load, own_class, save
from netpress.numerics.layers import quantized_layers
from netpress.process.devices import generator_for
from netpress.stage import STAGES, Context, Stage
from netpress.training import TrainSettings, run_training
from netpress.training.norms import remeasure_norms

DELETED = "deleted.json"
