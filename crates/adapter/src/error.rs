use checkpoint::CheckpointError;

/// Why an adapter cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its config cannot be what PEFT wrote.
    #[error("adapter_config.json: {0}")]
    Config(String),
    /// A feature of PEFT that has no meaning here.
    #[error("adapter_config.json: {0}")]
    Unsupported(String),
    #[error(
        "the singular values of a {rows} by {columns} matrix were not found; does it hold values that are not finite?"
    )]
    NoConvergence { rows: usize, columns: usize },
    /// Its tensors do not make an adapter.
    #[error("adapter_model.safetensors: {0}")]
    Tensors(String),
}
