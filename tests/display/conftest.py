from micro_rm.tests.heads.evaluation.conftest import (
    make_report,
    make_reward,
    make_scored,
    make_test_rows,
)

__all__ = ["make_report", "make_reward", "make_scored", "make_test_rows"]
