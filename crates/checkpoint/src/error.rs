use std::path::PathBuf;

/// Why a checkpoint cannot be used; messages name the file by its name, not by where the server keeps it.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("no such directory{}", if *under_roots { " under the source roots" } else { "" })]
    NotFound { under_roots: bool },
    #[error("no checkpoint here: neither model.safetensors nor model.safetensors.index.json{}", found.as_deref().map(|f| format!("; {f}")).unwrap_or_default())]
    NotACheckpoint { found: Option<String> },
    #[error("{file}: {reason}")]
    Malformed { file: String, reason: String },
    #[error("{0}")]
    Unsupported(String),
    #[error("stopped before it was done")]
    Cancelled,
    #[error("{path}: {source}", path = path.file_name().unwrap_or_default().display())]
    Io { path: PathBuf, source: std::io::Error },
}

impl CheckpointError {
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> CheckpointError {
        let path = path.into();
        move |source| CheckpointError::Io { path, source }
    }

    pub(crate) fn malformed(file: &str, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::Malformed { file: file.to_owned(), reason: reason.into() }
    }
}
