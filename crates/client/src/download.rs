//! A file of an artifact, brought here whole or not at all.

use std::path::{Path, PathBuf};

use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::{AGAIN, AGAIN_MAX, Client, ClientError, refused};

impl Client {
    /// Writes the file at `url`, a path of the server, to `to`, which must not exist; `on_bytes` is told of what comes, again where
    /// a connection broke and all of it comes again.
    /// It has its name when all of it is there and its SHA-256 is right.
    pub async fn download(
        &self,
        url: &str,
        sha256: &str,
        to: &Path,
        on_bytes: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ClientError> {
        let partial = partial(to);
        let mut wait = AGAIN;
        loop {
            let Err(error) = self.fetch(url, sha256, &partial, on_bytes).await else { break };
            // half a file is of no use; that it cannot be removed changes nothing about the first error
            let _ = tokio::fs::remove_file(&partial).await;
            if !error.may_pass() || wait > AGAIN_MAX {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        let io = |source| ClientError::Io { path: to.to_owned(), source };
        tokio::fs::rename(&partial, to).await.map_err(io)
    }

    async fn fetch(
        &self,
        url: &str,
        sha256: &str,
        to: &Path,
        on_bytes: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ClientError> {
        let full = self.url(url, &[]);
        let unreachable = |source| ClientError::Unreachable { url: full.clone(), source };
        let io = |source| ClientError::Io { path: to.to_owned(), source };
        let response = self.keyed(self.http.get(&full)).send().await.map_err(unreachable)?;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let mut file = tokio::fs::File::create_new(to).await.map_err(io)?;
        let (mut digest, mut pieces) = (Sha256::new(), response.bytes_stream());
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(unreachable)?;
            digest.update(&piece);
            file.write_all(&piece).await.map_err(io)?;
            on_bytes(piece.len() as u64);
        }
        file.sync_all().await.map_err(io)?;
        let found: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if found == sha256 { Ok(()) } else { Err(ClientError::Changed { url: full.clone() }) }
    }
}

fn partial(to: &Path) -> PathBuf {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    to.with_file_name(format!(".{name}.partial"))
}
