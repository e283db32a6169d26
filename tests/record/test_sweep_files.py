"""Names of the folders of studies."""

import pytest

from harness.record.sweep_files import name_study_folder

NAMES = {
    "lora-rank_2": "lora-rank_2",
    "v1.5": "v1.5",
    "größe": "größe",
    "my study": "my_study",
    "team/lr": "team_lr",
    "a:b (2)": "a_b__2_",
    ".": "_",
    "..": "__",
}


@pytest.mark.parametrize("study", NAMES)
def test_a_study_folder_is_one_folder_in_the_folder_of_studies(study) -> None:
    assert name_study_folder(study) == NAMES[study]
