import pytest

from vsn_train.data.inputs import find_videos
from vsn_train.errors import InputError


def test_files_folders_and_patterns(tmp_path):
    for name in ("b.mp4", "a.webm", "[x].avi", "deep/c.MKV", "notes.txt", "frames/00001.jpg", "frames/00002.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def found(*given: str) -> list[str]:
        return [str(path.relative_to(tmp_path)) for path in find_videos([f"{tmp_path}/{name}" for name in given])]

    assert found("b.mp4") == ["b.mp4"]
    assert found(".") == ["[x].avi", "a.webm", "b.mp4", "deep/c.MKV", "frames"]
    assert found("frames") == ["frames"]  # one video
    assert found("*.mp4", "**/*.MKV") == ["b.mp4", "deep/c.MKV"]
    assert found("[x].avi") == ["[x].avi"]  # what exists is no pattern
    assert found("b.mp4", "*.mp4", ".") == ["b.mp4", "[x].avi", "a.webm", "deep/c.MKV", "frames"]  # each once
    assert found("nothing.mp4") == ["nothing.mp4"]  # named when it is opened
    assert find_videos(f"{tmp_path}/b.mp4") == [tmp_path / "b.mp4"]
    (tmp_path / "empty").mkdir()
    for given in ("*.ogv", "empty"):
        with pytest.raises(InputError, match="found no videos; expected files that end in one of 3gp, avi"):
            found(given)
