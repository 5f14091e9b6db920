from __future__ import annotations

import pytest
from pydantic import ValidationError
from support.jobs.queues import a_job, a_work

from upframe.daemon.jobs.model import Job, partial_token
from upframe.daemon.specification import ConversionSpec
from upframe.filters.options import FilterOptions


def test_work_that_says_the_same_has_one_digest() -> None:
    first = a_work(encoder={"codec": "libx264", "options": {"a": "1", "b": "2"}})
    again = a_work(encoder={"options": {"b": "2", "a": "1"}, "codec": "libx264"})
    assert first.digest == again.digest
    assert first.digest != a_work(encoder={"codec": "libx265"}).digest
    assert a_work(overwrite=False).digest == a_work().digest


def test_history_and_priority_are_no_part_of_the_digest() -> None:
    assert a_job(priority=5, minute=3).work.digest == a_job().work.digest == a_work().digest


def test_an_option_left_at_its_default_is_one_with_the_default_given() -> None:
    given = FilterOptions(enable_frame_interpolation=True, frame_interpolation_exp=1)
    assert (
        a_work(filters=given).digest == a_work(filters={"enable_frame_interpolation": True}).digest
    )


def test_work_without_a_filter_is_refused() -> None:
    with pytest.raises(ValidationError, match="filters: none is enabled"):
        a_work(filters={})


@pytest.mark.parametrize("unsafe", ["", "-a", ".a", "a/b", "a b", "a+b", "#", "a" * 65, "ä"])
def test_an_id_that_is_not_safe_everywhere_is_refused(unsafe: str) -> None:
    with pytest.raises(ValidationError, match="id"):
        a_job().model_validate({**a_job().model_dump(), "id": unsafe})


def test_a_job_is_read_back_as_it_was_written() -> None:
    job = a_job(encoder={"crf": 18}, framerate="24000/1001")
    assert Job.model_validate_json(job.model_dump_json()) == job


@pytest.mark.parametrize("framerate", ["24,0", "1/", "-1", "NaN", "0", "24/0", "0/1"])
def test_a_rate_is_a_fraction(framerate: str) -> None:
    with pytest.raises(ValidationError, match="framerate"):
        a_work(framerate=framerate)


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        ConversionSpec.model_validate({**a_work().model_dump(), "scale": 2})


def test_temporary_files_of_a_job_are_found_by_its_id() -> None:
    assert partial_token("film") == partial_token("film") != partial_token("film2")
    assert partial_token("film").startswith("job-")
    assert "/" not in partial_token("../../etc")
