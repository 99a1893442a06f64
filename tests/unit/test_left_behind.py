"""What killed drivers leave in /tmp is removed by a later one; what is in use is not."""

import os
import time

from okddip_search.cluster.ray_cluster import OWNER, PREFIX, STALE_AFTER_S, _remove_stale
from trainer.io.files import exclusive_lock


def folder_of(place, name, *, age_s):
    folder = place / f"{PREFIX}{name}"
    (folder / "ray").mkdir(parents=True)
    owner = folder / OWNER
    owner.write_text("1")
    then = time.time() - age_s
    os.utime(owner, (then, then))
    return folder


def test_only_folders_whose_driver_is_dead_are_removed(tmp_path):
    old = 10 * STALE_AFTER_S
    dead = folder_of(tmp_path, "dead", age_s=old)
    new = folder_of(tmp_path, "new", age_s=0)
    held = folder_of(tmp_path, "held", age_s=old)
    foreign = tmp_path / f"{PREFIX}foreign"
    foreign.mkdir()
    elsewhere = tmp_path / "elsewhere"
    folder_of(elsewhere, "x", age_s=old)
    link = tmp_path / f"{PREFIX}link"
    link.symlink_to(elsewhere / f"{PREFIX}x")
    with exclusive_lock(held / OWNER):
        os.utime(held / OWNER, (1, 1))
        _remove_stale(tmp_path)
    assert not dead.exists()
    assert new.exists() and held.exists() and foreign.exists()
    assert (elsewhere / f"{PREFIX}x" / OWNER).exists() and link.is_symlink()
