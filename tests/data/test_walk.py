"""What below a folder is a video, for every command: files, folders of images, and what is passed over."""

import pytest

from vsn_train.data.inputs import find_videos
from vsn_train.data.prepare import find_sources
from vsn_train.data.walk import walk_videos
from vsn_train.errors import InputError


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize("picture", ["cover1.jpg", "a/thumb_01.png", "a/b/cover 2.JPEG"])
def test_a_picture_beside_or_above_videos_hides_none(tmp_path, picture, capsys):
    videos = ["a/1.mp4", "a/b/2.avi", "a/b/3.MTS", "a/b/4.gif", "a/c/5.webm"]
    make(tmp_path, *videos, picture)
    found = walk_videos(tmp_path)
    assert found.videos == videos
    assert found.left_out == {"pictures beside videos": [picture]}
    assert find_sources(tmp_path) == (videos, f"left out: 1 pictures beside videos ({picture!r})")
    assert find_videos(str(tmp_path)) == [tmp_path / name for name in videos]
    assert repr(picture) in capsys.readouterr().err


def test_hidden_and_system_files_are_passed_over_and_links_followed_once(tmp_path):
    make(
        tmp_path / "x",
        "1.mp4", "._1.mp4", ".DS_Store", "Thumbs.db", "@eaDir/1.mp4", ".vsn-train/2.mp4", "__MACOSX/1.mp4",
        "notes.txt", "frames/00001.jpg", "frames/00002.jpg", "frames/Thumbs.db", "frames/flow/x_00001.jpg",
    )  # fmt: skip
    make(tmp_path, "elsewhere/3.mp4")
    (tmp_path / "x" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "x" / "again").symlink_to(tmp_path / "x")
    (tmp_path / "x" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    found = walk_videos(tmp_path / "x")
    assert found.videos == ["1.mp4", "frames", "linked/3.mp4"]
    assert found.left_out == {
        "hidden or of the system": [
            ".DS_Store", "._1.mp4", ".vsn-train", "@eaDir", "Thumbs.db", "__MACOSX", "frames/Thumbs.db",
        ],
        "inside of a folder of images": ["frames/flow"],
        "links to a folder above them": ["again"],
        "links to nothing": ["gone.mp4"],
        "that are no videos": ["notes.txt"],
    }  # fmt: skip
    assert "1 links to nothing ('gone.mp4')" in found.note()


def test_a_folder_of_images_is_one_video(tmp_path):
    make(tmp_path, "00001.jpg", "00002.jpg")
    assert walk_videos(tmp_path).videos == ["."]
    assert find_videos(str(tmp_path)) == [tmp_path]
    with pytest.raises(InputError, match="a folder of images, which is one video; expected a folder of videos"):
        find_sources(tmp_path)
