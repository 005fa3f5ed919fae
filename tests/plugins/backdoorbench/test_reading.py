"""Records of BackdoorBench as attacks."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from bdbench import BdbenchError, Role, Split
from bdbench_backdoorbench.attack import BackdoorBenchRecord
from tests.plugins.backdoorbench.conftest import Clean, make_clean

CORES: list[Literal["numpy.core", "numpy._core"]] = ["numpy.core", "numpy._core"]


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_record_becomes_its_poisoned_set(tmp_path: Path, core: Any, in_memory: bool, channels: int) -> None:
    clean = make_clean(tmp_path, channels)
    folder = clean.badnet(tmp_path / "record" / "badnet_demo", core=core, in_memory=in_memory)
    with zipfile.ZipFile(folder / "attack_result.pt") as archive:
        data = archive.read("attack_result/data.pkl")
    assert f"c{core}.multiarray\nscalar".encode() in data
    poisoned = clean.poison(folder)
    changed = [7, 21, 38]
    expected = np.array(clean.train.images)
    expected[changed, -2:, -2:] = 255
    assert np.array_equal(poisoned.images, expected)
    assert poisoned.labels[changed].tolist() == [0, 0, 0]
    assert np.array_equal(poisoned.original_labels, clean.train.labels)
    assert np.flatnonzero(poisoned.roles == Role.POISON).tolist() == changed
    assert poisoned.roles.sum() == 3 * Role.POISON
    attack = BackdoorBenchRecord(record=str(folder))
    challenge = attack.triggered_set(clean.test)
    assert np.array_equal(challenge.index, np.flatnonzero(clean.test.labels != 0))
    assert (challenge.images[:, -2:, -2:] == 255).all()
    assert set(challenge.goal.tolist()) == {0}


def test_a_record_is_laid_over_a_shuffled_set_and_what_a_reserve_left_of_the_test_part(
    tmp_path: Path, clean: Clean
) -> None:
    folder = clean.badnet(tmp_path / "r")
    attack = BackdoorBenchRecord(record=str(folder))
    order = np.random.default_rng(0).permutation(40)
    shuffled = Split(np.asarray(clean.train.images)[order], clean.train.labels[order], order)
    made, plain = attack.poisoned_set(shuffled, 4), clean.poison(folder)
    for name in ("images", "labels", "roles", "original_labels"):
        assert np.array_equal(getattr(made, name), getattr(plain, name)[order]), name
    left = np.delete(np.arange(24), [3, 4, 5])
    rest = Split(np.asarray(clean.test.images)[left], clean.test.labels[left], left)
    challenge, whole = attack.triggered_set(rest), attack.triggered_set(clean.test)
    kept = np.isin(whole.index, left)
    assert np.array_equal(left[challenge.index], whole.index[kept])
    assert np.array_equal(challenge.images, whole.images[kept])


def test_a_record_that_was_moved_is_found(tmp_path: Path, clean: Clean, monkeypatch: pytest.MonkeyPatch) -> None:
    before = clean.poison(clean.badnet(tmp_path / "record" / "badnet_demo"))
    shutil.move(tmp_path / "record" / "badnet_demo", tmp_path / "elsewhere")
    monkeypatch.chdir("/")
    assert np.array_equal(clean.poison(tmp_path / "elsewhere").images, before.images)


def test_an_index_that_is_not_the_identity_picks_from_the_set(tmp_path: Path, clean: Clean) -> None:
    order = np.array([38, 3, 21, 0, 39])
    poisoned = clean.poison(clean.badnet(tmp_path / "r", train_index=order))
    # In the order of the set that it is laid over: the record's own would tell what it was made of.
    assert poisoned.index is not None and poisoned.index.tolist() == [0, 3, 21, 38, 39]
    assert poisoned.roles.tolist() == [0, 0, Role.POISON, Role.POISON, 0]
    assert np.array_equal(poisoned.images[[0, 1, 4]], np.asarray(clean.train.images)[[0, 3, 39]])
    assert (poisoned.images[3, -2:, -2:] == 255).all()
    assert poisoned.original_labels.tolist() == [0, 3, 1, 2, 3]


def test_correctly_labelled_poisons_are_cover(tmp_path: Path, clean: Clean) -> None:
    # As WaNet writes them: places 1 to 3 to the target, whatever their class, and 4 to 7 with their own labels.
    places = list(range(8))
    labels = [0] * 4 + clean.train.labels[4:8].tolist()
    train = clean.changed(clean.train, places, labels)
    folder = clean.write(tmp_path / "wanet", train, clean.changed(clean.test, [1, 2, 3], [0, 0, 0]))
    roles = clean.poison(folder).roles
    assert np.flatnonzero(roles == Role.POISON).tolist() == [1, 2, 3]
    assert np.flatnonzero(roles == Role.COVER).tolist() == [0, 4, 5, 6, 7]


def test_where_no_label_changes_the_target_class_is_poisoned(tmp_path: Path, clean: Clean) -> None:
    train = clean.changed(clean.train, [0, 4, 8], [0, 0, 0])
    folder = clean.write(tmp_path / "sig", train, clean.changed(clean.test, [1, 2, 3], [0, 0, 0]))
    assert np.flatnonzero(clean.poison(folder).roles == Role.POISON).tolist() == [0, 4, 8]


def test_all_to_all_has_a_goal_for_each_label(tmp_path: Path, clean: Clean) -> None:
    everything = list(range(len(clean.test.labels)))
    test = clean.changed(clean.test, everything, ((clean.test.labels + 1) % 4).tolist())
    folder = clean.write(tmp_path / "a2a", clean.changed(clean.train, [1], [2]), test)
    attack = BackdoorBenchRecord(record=str(folder))
    assert np.array_equal(attack.triggered_set(clean.test).goal, (clean.test.labels + 1) % 4)
    assert attack.result().targets() == (0, 1, 2, 3)


def test_success_counts_on_the_records_own_test_images_only(tmp_path: Path, clean: Clean) -> None:
    folder = clean.write(
        tmp_path / "few", clean.changed(clean.train, [1], [0]), clean.changed(clean.test, [5, 2], [0, 0])
    )
    challenge = BackdoorBenchRecord(record=str(folder)).triggered_set(clean.test)
    assert challenge.index.tolist() == [2, 5] and challenge.goal.tolist() == [0, 0]


def test_another_data_set_is_refused(tmp_path: Path, clean: Clean) -> None:
    attack = BackdoorBenchRecord(record=str(clean.badnet(tmp_path / "r")))
    short = Split(np.asarray(clean.train.images)[:30], clean.train.labels[:30])
    with pytest.raises(BdbenchError, match=r"is of 40 training images of 4 classes .*: the data set has 30 of 4"):
        attack.poisoned_set(short, 4)
    shifted = Split(clean.train.images, np.roll(clean.train.labels, 1))
    with pytest.raises(BdbenchError, match="training example 7 was of class 3, but in the data set it is of class 2"):
        attack.poisoned_set(shifted, 4)
    with pytest.raises(BdbenchError, match="triggers its own 24 test images only: the data set has 40"):
        attack.triggered_set(clean.train)
    relabelled = Split(clean.test.images, np.roll(clean.test.labels, 1))
    with pytest.raises(BdbenchError, match="test example 1 was of class 1, but in the data set it is of class 0"):
        attack.triggered_set(relabelled)
    grey = Split(np.asarray(clean.train.images)[..., :1], clean.train.labels)
    with pytest.raises(BdbenchError, match="example 7 is RGB of 8 x 8: expected L of 8 x 8"):
        attack.poisoned_set(grey, 4)


def test_what_is_missing_is_named(tmp_path: Path, clean: Clean) -> None:
    folder = clean.badnet(tmp_path / "r")
    image = next((folder / "bd_train_dataset").rglob("21.png"))
    image.unlink()
    with pytest.raises(BdbenchError, match=f"example 21 is not at {image}"):
        clean.poison(folder)
    with pytest.raises(BdbenchError, match="no record at .*: expected a folder with attack_result.pt"):
        clean.poison(tmp_path / "nowhere")
    with pytest.raises(BdbenchError, match="expected backdoorbench:record=DIR"):
        BackdoorBenchRecord().result()
    torch.save({"model_name": "x"}, folder / "attack_result.pt")
    with pytest.raises(BdbenchError, match="has no 'num_classes'"):
        clean.poison(folder)


def test_an_image_path_that_leads_out_of_the_record_is_refused(tmp_path: Path, clean: Clean) -> None:
    folder = clean.badnet(tmp_path / "r")
    data = torch.load(folder / "attack_result.pt", weights_only=False)
    entry = data["bd_train"]["bd_data_container"]["data_dict"][np.int64(7)]
    entry["path"] = "./record/x/bd_train_dataset/../../clean.png"
    torch.save(data, folder / "attack_result.pt")
    with pytest.raises(BdbenchError, match="leads out of the record"):
        clean.poison(folder)
