"""Makes the seeds of the pickle target from the checkpoints of `crates/checkpoint/tests/pickles`: `python make_seeds.py`."""

from pathlib import Path
from zipfile import ZipFile

HERE = Path(__file__).parent
SEEDS = HERE / "seeds/pickle"

if __name__ == "__main__":
    for name in ["dtypes", "views", "protocol4", "tied", "wrapped"]:
        archive = ZipFile(HERE / f"../crates/checkpoint/tests/pickles/{name}.bin")
        (SEEDS / f"{name}.pkl").write_bytes(archive.read(f"{name}/data.pkl"))
    (SEEDS / "system.pkl").write_bytes(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.")
    (SEEDS / "build.pkl").write_bytes(b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01uh\x00b.")
    (SEEDS / "cycle.pkl").write_bytes(b"\x80\x02]q\x00h\x00a}X\x01\x00\x00\x00ah\x00s.")
