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
