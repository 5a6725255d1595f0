//! What the machine needs to move the bytes and nothing else: every input read once into a reused buffer, the output
//! written once to the same folder.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::Error;

/// Bytes that a thread reads of each input, and writes, at a time.
const PIECE: u64 = 1 << 20;

#[derive(Debug, Clone, Copy)]
pub struct Floor {
    /// As `cp` does: into the page cache.
    pub copied: Duration,
    /// With the output on the disk.
    pub synced: Duration,
}

struct Input<'a> {
    file: File,
    path: &'a Path,
    bytes: u64,
}

impl Input<'_> {
    fn open(path: &PathBuf) -> Result<Input<'_>, Error> {
        let file = File::open(path).map_err(Error::io(path))?;
        let bytes = file.metadata().map_err(Error::io(path))?.len();
        Ok(Input { file, path, bytes })
    }
}

/// Moves the bytes on some threads: of each input, and `output` bytes out.
pub fn take(inputs: &[PathBuf], output: u64, dir: &Path, threads: usize) -> Result<Floor, Error> {
    let path = dir.join("floor.bin");
    let inputs: Vec<Input<'_>> = inputs.iter().map(Input::open).collect::<Result<_, Error>>()?;
    let longest = inputs.iter().map(|input| input.bytes).chain([output]).max().unwrap_or(0);
    let started = Instant::now();
    let out = File::create(&path).map_err(Error::io(&path))?;
    out.set_len(output).map_err(Error::io(&path))?;
    let next = AtomicU64::new(0);
    let work = || -> Result<(), Error> {
        let mut buffer = vec![1; PIECE as usize];
        loop {
            let at = next.fetch_add(PIECE, Ordering::Relaxed);
            if at >= longest {
                return Ok(());
            }
            for input in inputs.iter().filter(|input| at < input.bytes) {
                let part = &mut buffer[..PIECE.min(input.bytes - at) as usize];
                input.file.read_exact_at(part, at).map_err(Error::io(input.path))?;
            }
            if at < output {
                out.write_all_at(&buffer[..PIECE.min(output - at) as usize], at).map_err(Error::io(&path))?;
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
    })?;
    let copied = started.elapsed();
    out.sync_all().map_err(Error::io(&path))?;
    let synced = started.elapsed();
    std::fs::remove_file(&path).map_err(Error::io(&path))?;
    Ok(Floor { copied, synced })
}
