"""Registry of published data sets by name.

To add one, write ``SOURCE`` in a file of its own and list the module here.
"""

from __future__ import annotations

from ..published import Published
from . import (
    capybara,
    helpsteer,
    helpsteer2,
    hh_rlhf,
    orca_pairs,
    pku_saferlhf,
    preference_700k,
    prism,
    reward_bench,
    reward_bench_2,
    rpr,
    shp,
    ultrafeedback,
    ultrainteract,
)

PUBLISHED: dict[str, Published] = {
    module.SOURCE.name: module.SOURCE
    for module in (
        helpsteer2,
        rpr,
        preference_700k,
        ultrafeedback,
        pku_saferlhf,
        hh_rlhf,
        shp,
        helpsteer,
        capybara,
        orca_pairs,
        ultrainteract,
        reward_bench,
        reward_bench_2,
        prism,
    )
}
