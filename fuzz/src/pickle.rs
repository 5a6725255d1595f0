//! The pickle of a file of `torch.save`, in an archive with a few storages to speak of.

use super::{archive::archive, torch_file};

const STORAGE: &[u8] = &[7; 96];

pub fn run(data: &[u8]) {
    let entries = [("a/data.pkl", data), ("a/byteorder", b"little"), ("a/data/0", STORAGE), ("a/data/1", STORAGE)];
    torch_file::run(&archive(&entries));
}
