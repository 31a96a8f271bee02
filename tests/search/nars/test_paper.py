"""The paper's constants, and that the search's config heeds them."""

import json
from pathlib import Path

import numpy as np
import pytest

from fbnetv3.search.cost.cost import costs
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.evolution import EvolutionSettings
from fbnetv3.search.nars.paper import JOINT
from fbnetv3.search.space.spaces import get_space
from tests.search.nars.test_rounds import PLAN, search


def test_the_papers_search_is_a_config_that_survives_json() -> None:
    config = SearchConfig(**JOINT)
    assert SearchConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.bins == "equal"  # although there are several limits


def test_defaults_of_the_config_are_those_of_evolution() -> None:
    assert SearchConfig().evolution == EvolutionSettings()
    odd = SearchConfig(population=5, children=2, keep=3).evolution
    assert (odd.first_best, odd.first_random, odd.children, odd.keep) == (2, 3, 2, 3)


def test_a_search_of_recipes_alone_has_no_costs_to_pretrain_on() -> None:
    space = get_space("recipe_only")
    rows = space.sample(50, np.random.default_rng(0))
    assert len(np.unique(rows, axis=0)) > 40
    assert all(np.ptp(values) == 0 for values in costs(space, rows).as_dict().values())


def test_trainings_are_shortened_less_by_a_higher_threshold(tmp_path: Path) -> None:
    epochs = []
    for threshold in (0.92, 0.9999):
        fields = {"batch": 40, "epochs": 30, "rounds": 0, "threshold": threshold}
        store, _ = search(tmp_path / str(threshold), SearchConfig(**{**vars(PLAN), **fields}))
        found = store.stage("early_stop")
        assert found is not None
        epochs.append(found["epoch"])
        store.close()
    assert 1 < epochs[0] < epochs[1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"threshold": 1.0}, "threshold is 1.0; expected between 0 and 1"),
        ({"population": 1}, "population is 1; expected at least 2"),
        ({"children": 0}, "children is 0"),
        ({"keep": 0}, "keep is 0"),
    ],
)
def test_constants_out_of_range_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchConfig(**fields)  # type: ignore[arg-type]  # by name
