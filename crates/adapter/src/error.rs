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
    /// Its tensors do not make an adapter.
    #[error("adapter_model.safetensors: {0}")]
    Tensors(String),
}
