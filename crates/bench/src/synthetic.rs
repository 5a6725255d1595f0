//! Checkpoints made by seed: a base, and fine-tunes that are the base with a little noise.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use checkpoint::{Dtype, layout_shards};

use crate::Error;
use crate::shape::Size;

/// Standard deviation of the weights, and of what a fine-tune adds.
const SPREAD: f32 = 0.02;
const STEP: f32 = 0.002;

/// Checkpoints of one size, base first. Files that are there already with the right length are kept.
pub fn make(dir: &Path, size: Size, models: usize) -> Result<Vec<PathBuf>, Error> {
    (0..models).map(|model| make_one(&dir.join(format!("{}-{model}", size.name())), size, model)).collect()
}

fn make_one(dir: &Path, size: Size, model: usize) -> Result<PathBuf, Error> {
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let tensors = size.tensors().into_iter().map(|tensor| (tensor.name, Dtype::BF16, tensor.dims)).collect();
    let layout = layout_shards(tensors, u64::MAX).pop().ok_or(Error::NoTensors)?;
    let path = dir.join("model.safetensors");
    if std::fs::metadata(&path).is_ok_and(|found| found.len() == layout.bytes) {
        return Ok(dir.to_owned());
    }
    let config = dir.join("config.json");
    std::fs::write(&config, size.config().to_string()).map_err(Error::io(&config))?;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&path).map_err(Error::io(&path))?);
    let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io(&path));
    write(&layout.header)?;
    let mut bytes = Vec::new();
    for (place, tensor) in layout.tensors.iter().enumerate() {
        let mut of_base = Numbers::new(place as u64);
        let mut of_model = Numbers::new((model as u64) << 32 | place as u64);
        let mut left = tensor.bytes / 2;
        while left > 0 {
            let length = left.min(1 << 16);
            bytes.clear();
            for _ in 0..length {
                let tuned = if model == 0 { 0.0 } else { STEP * of_model.next_normal() };
                bytes.extend(bf16(SPREAD * of_base.next_normal() + tuned).to_le_bytes());
            }
            write(&bytes)?;
            left -= length;
        }
    }
    file.flush().map_err(Error::io(&path))?;
    Ok(dir.to_owned())
}

/// Rounded to nearest, ties to even; the numbers here are finite.
fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// Numbers that look normal: sums of four uniform ones, from splitmix64.
struct Numbers(u64);

impl Numbers {
    fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next_normal(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bits = mixed ^ mixed >> 31;
        let sum: u64 = (0..4).map(|k| bits >> (16 * k) & 0xffff).sum();
        // four uniform numbers have the mean 2 and the variance 1/3
        (sum as f32 / 65536.0 - 2.0) * 1.732_050_8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;

    #[test]
    fn the_same_seed_gives_the_same_file_and_fine_tunes_lie_near_their_base() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let size = Size { shape: Shape::Tiny, layers: None };
        let first = make(&dir.path().join("a"), size, 2).expect("written");
        let again = make(&dir.path().join("b"), size, 2).expect("written");
        let read = |dir: &Path| std::fs::read(dir.join("model.safetensors")).expect("written");
        assert!(read(&first[0]) == read(&again[0]) && read(&first[1]) == read(&again[1]));
        let values = |bytes: &[u8]| -> Vec<f32> {
            let pairs = bytes[bytes.len() - 4096..].as_chunks::<2>().0;
            pairs.iter().map(|pair| f32::from_bits(u32::from(u16::from_le_bytes(*pair)) << 16)).collect()
        };
        let (base, tuned) = (values(&read(&first[0])), values(&read(&first[1])));
        let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
        let ratio = norm(&mut base.iter().zip(&tuned).map(|(a, b)| a - b)) / norm(&mut base.iter().copied());
        assert!((0.05..0.2).contains(&ratio), "{ratio}");
    }
}
