"""The filter options as configuration, jobs and reports write and read them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from upframe.filters.options import FilterOptions


@pytest.mark.parametrize(
    "given",
    [
        {"enable_upscaling": True, "upscaling_scale": 3},
        {"enable_frame_interpolation": True, "frame_interpolation_exp": 2},
        {"enable_frame_interpolation": True, "enable_upscaling": True},
        {},
    ],
)
def test_what_is_written_can_be_read_again(given: dict[str, object]) -> None:
    options = FilterOptions.model_validate(given)
    assert FilterOptions.model_validate_json(options.model_dump_json()) == options
    assert FilterOptions.model_validate(options.model_dump(mode="json")) == options


def test_refuses_an_option_of_a_filter_that_is_not_enabled() -> None:
    with pytest.raises(ValidationError, match="enable_upscaling is not"):
        FilterOptions.model_validate({"upscaling_scale": 2})
