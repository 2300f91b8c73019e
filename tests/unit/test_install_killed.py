"""A process that ends at any step of making its folder leaves nothing behind that the next one does not remove."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.packing.installer import install, settings


class Killed(BaseException):
    """Nobody catches it: as if the process had ended."""


@pytest.fixture
def target(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "there").mkdir()
    return tmp_path / "there" / "small"


@pytest.mark.parametrize("step", ["before mkdir", "after mkdir", "after the parents", "after the mark", "at the end"])
def test_a_folder_whose_maker_was_killed_is_removed_by_the_next_one(target: Path, monkeypatch, step):
    made = []

    def kill(*_arguments, **_options):
        raise Killed

    with monkeypatch.context() as patch:
        if step == "before mkdir":
            patch.setattr(settings.os, "mkdir", kill)
        elif step == "after mkdir":
            patch.setattr(settings, "_marked", kill)
        elif step == "after the parents":
            patch.setattr(settings.os, "open", kill_after(settings.os.open, "made-here"))
        elif step == "after the mark":
            patch.setattr(settings.os, "stat", kill_after(settings.os.stat, ".installing."))
        else:
            made.append(settings.new_folder(target))
        if not made:
            with pytest.raises(Killed):
                settings.new_folder(target)
    assert len(list(target.parent.iterdir())) == (step != "before mkdir")
    install._clear_unfinished(target.parent)
    assert list(target.parent.iterdir()) == [] and settings.known_folders() == []


def kill_after(call, part: str):
    def meddled(path, *arguments, **options):
        if part in str(path) and "follow_symlinks" not in options:
            raise Killed
        return call(path, *arguments, **options)

    return meddled


def test_a_folder_with_a_file_that_is_not_the_marked_one_is_kept(target: Path, monkeypatch):
    def kill(*_arguments):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(settings, "_marked", kill)
        with pytest.raises(Killed):
            settings.new_folder(target)
    (folder,) = target.parent.iterdir()
    (folder / "thesis").write_text("years of work")
    install._clear_unfinished(target.parent)
    assert (folder / "thesis").exists()


@pytest.mark.parametrize("what", ["the target, with folders alone", "a link to a folder", "a closed folder"])
def test_killed_before_its_folder_is_there_it_gives_no_leave_to_remove_the_users(target: Path, monkeypatch, what):
    with monkeypatch.context() as patch:
        patch.setattr(settings.os, "mkdir", kill_after(settings.os.mkdir, ".installing."))
        with pytest.raises(Killed):
            settings.new_folder(target)
    (made,) = settings.known_folders()
    users = target if what.startswith("the target") else Path(made.temporary)
    (users / "drafts").mkdir(parents=True)
    if what == "a link to a folder":
        (users / "drafts" / "thesis").symlink_to(target.parent.parent, target_is_directory=True)
    with monkeypatch.context() as patch:
        if what == "a closed folder":
            patch.setattr(settings.os, "scandir", refuse_in(settings.os.scandir, "drafts"))
        assert not made.lies_at(users)
    if what != "a closed folder":
        install._clear_unfinished(target.parent)
        assert (users / "drafts").is_dir()


def refuse_in(call, name: str):
    def meddled(path):
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied", path)
        return call(path)

    return meddled


def test_a_folder_made_anew_under_the_old_name_is_kept(target: Path):
    """The token is what the settings remember of that very folder."""
    made = settings.new_folder(target)
    folder = Path(made.temporary)
    (folder / settings.MARK).write_text("0" * 32 + "\\n")
    install._clear_unfinished(target.parent)
    assert folder.exists()


def test_settings_that_cannot_be_written_or_read_stop_nothing(target: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "/proc/none")
    made = settings.new_folder(target)
    assert Path(made.temporary).is_dir() and settings.known_folders() == []
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for content in ("{", "[1]", '[{"token": 1}]', "null", '[{"token": "x"}]'):
        path = settings.settings_folder() / "installations.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        assert settings.known_folders() == []
