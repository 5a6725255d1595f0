//! A file of an artifact, brought here whole or not at all. What a broken connection left is kept, and gone on from.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::{Client, ClientError, refused};

/// What is read of a file at a time.
const BUFFER_BYTES: usize = 256 * 1024;

impl Client {
    /// Writes the file at `url`, a path of the server, to `to`; `on_bytes` is told how much of it is here.
    /// It has its name when all of it is there and its SHA-256 is right; until then it is `.NAME.partial` beside it, and the next
    /// download goes on from there.
    pub async fn download(
        &self,
        url: &str,
        sha256: &str,
        to: &Path,
        on_bytes: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ClientError> {
        let partial = partial(to);
        let io = |source| ClientError::Io { path: partial.clone(), source };
        let (mut tries, mut reached) = (self.tries(), 0);
        loop {
            let kept = Kept::of(&partial).await.map_err(io)?;
            if kept.bytes > reached {
                reached = kept.bytes;
                tries.reset();
            }
            let resumes = kept.bytes > 0;
            match self.fetch(url, sha256, kept, &partial, on_bytes).await {
                Ok(()) => break,
                // what was kept is not of this file
                Err(error) if resumes && is_other(&error) => tokio::fs::remove_file(&partial).await.map_err(io)?,
                Err(error @ ClientError::Changed { .. }) => {
                    // that it cannot be removed changes nothing about the error
                    let _ = tokio::fs::remove_file(&partial).await;
                    return Err(error);
                }
                Err(error) => tries.wait(error).await?,
            }
        }
        let io = |source| ClientError::Io { path: to.to_owned(), source };
        tokio::fs::rename(&partial, to).await.map_err(io)
    }

    async fn fetch(
        &self,
        url: &str,
        sha256: &str,
        kept: Kept,
        to: &Path,
        on_bytes: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ClientError> {
        let full = self.url(url, &[]);
        let unreachable = |source| ClientError::Unreachable { url: full.clone(), source };
        let io = |source| ClientError::Io { path: to.to_owned(), source };
        on_bytes(kept.bytes);
        if kept.bytes > 0 && hex(kept.digest.clone()) == sha256 {
            return Ok(());
        }
        let mut request = self.http.get(&full);
        if kept.bytes > 0 {
            request =
                request.header("range", format!("bytes={}-", kept.bytes)).header("if-range", format!("\"{sha256}\""));
        }
        let response = self.keyed(request).send().await.map_err(unreachable)?;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let goes_on = kept.bytes > 0 && response.status().as_u16() == 206;
        let (mut digest, mut bytes) = if goes_on { (kept.digest, kept.bytes) } else { (Sha256::new(), 0) };
        let mut options = tokio::fs::OpenOptions::new();
        options.create(true).write(true);
        let mut file = match goes_on {
            true => options.append(true).open(to).await.map_err(io)?,
            false => options.truncate(true).open(to).await.map_err(io)?,
        };
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(source) => {
                    // what came is gone on from
                    file.flush().await.map_err(io)?;
                    return Err(unreachable(source));
                }
            };
            digest.update(&piece);
            file.write_all(&piece).await.map_err(io)?;
            bytes += piece.len() as u64;
            on_bytes(bytes);
        }
        file.sync_all().await.map_err(io)?;
        if hex(digest) == sha256 { Ok(()) } else { Err(ClientError::Changed { url: full.clone() }) }
    }
}

/// What is here of a file.
struct Kept {
    digest: Sha256,
    bytes: u64,
}

impl Kept {
    async fn of(path: &Path) -> std::io::Result<Kept> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || Kept::read(&path)).await.map_err(std::io::Error::other)?
    }

    fn read(path: &Path) -> std::io::Result<Kept> {
        let mut kept = Kept { digest: Sha256::new(), bytes: 0 };
        let mut file = match std::fs::File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(kept),
            file => file?,
        };
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(kept),
                count => {
                    kept.digest.update(&buffer[..count]);
                    kept.bytes += count as u64;
                }
            }
        }
    }
}

/// The SHA-256 of a file that is here, with its length; `None` where there is none.
pub async fn digest_of(path: &Path) -> Result<Option<(String, u64)>, ClientError> {
    let kept = match tokio::fs::symlink_metadata(path).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error),
        Ok(_) => Kept::of(path).await,
    };
    let kept = kept.map_err(|source| ClientError::Io { path: path.to_owned(), source })?;
    Ok(Some((hex(kept.digest), kept.bytes)))
}

fn is_other(error: &ClientError) -> bool {
    matches!(error, ClientError::Changed { .. }) || error.status() == Some(416)
}

fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn partial(to: &Path) -> PathBuf {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    to.with_file_name(format!(".{name}.partial"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scripted, answer, cut};

    fn digest(text: &str) -> String {
        hex(Sha256::new().chain_update(text))
    }

    async fn download(served: &Scripted, dir: &Path) -> Result<String, ClientError> {
        let to = dir.join("model");
        served.client().download("/f", &digest("0123456789"), &to, &|_| {}).await?;
        Ok(std::fs::read_to_string(to).unwrap())
    }

    #[tokio::test]
    async fn a_download_that_was_cut_goes_on_where_it_stood() {
        let dir = tempfile::tempdir().unwrap();
        let served = Scripted::start([cut(200, &[], "0123"), answer(206, &[], "456789")]).await;
        assert_eq!(download(&served, dir.path()).await.unwrap(), "0123456789");
        let asked = &served.seen()[1];
        let tag = format!("\"{}\"", digest("0123456789"));
        assert_eq!((asked.header("range"), asked.header("if-range")), ("bytes=4-", tag.as_str()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn what_another_download_left_is_gone_on_from_and_all_of_it_is_asked_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".model.partial"), "012345").unwrap();
        let served = Scripted::start([answer(206, &[], "6789")]).await;
        assert_eq!(download(&served, dir.path()).await.unwrap(), "0123456789");
        std::fs::rename(dir.path().join("model"), dir.path().join(".model.partial")).unwrap();
        let served = Scripted::start([]).await;
        assert_eq!(download(&served, dir.path()).await.unwrap(), "0123456789");
        assert_eq!(served.seen().len(), 0);
    }

    #[tokio::test]
    async fn what_is_left_of_another_file_is_replaced() {
        for (left, answers) in [
            ("abc", vec![answer(206, &[], "3456789"), answer(200, &[], "0123456789")]),
            ("abc", vec![answer(200, &[], "0123456789")]),
            ("0123456789abc", vec![answer(416, &[], ""), answer(200, &[], "0123456789")]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(".model.partial"), left).unwrap();
            let served = Scripted::start(answers).await;
            assert_eq!(download(&served, dir.path()).await.unwrap(), "0123456789");
        }
    }

    #[tokio::test]
    async fn a_file_of_another_digest_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let served = Scripted::start([answer(200, &[], "0123456780")]).await;
        assert!(matches!(download(&served, dir.path()).await, Err(ClientError::Changed { .. })));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
