//! What every handler shares.

use std::{path::PathBuf, sync::Arc};

use checkpoint::{Access, OutputRoots};
use engine::Settings;
use jobs::Store;
use meter::Meter;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::limits::PLANS_AT_ONCE_MAX;

/// What the operator sets.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Which models posted recipes may name.
    pub access: Access,
    /// Directories whose content belongs to tenants: none reads another's there.
    pub private: Vec<PathBuf>,
    pub outputs: OutputRoots,
    pub settings: Settings,
    /// The host names this server answers to, without ports; `None` for any.
    pub allowed_hosts: Option<Vec<String>>,
}

#[derive(Clone)]
pub struct Api {
    pub(crate) store: Store,
    pub(crate) config: Arc<ApiConfig>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) planning: Arc<Semaphore>,
    pub(crate) meter: Arc<Meter>,
}

impl Api {
    /// Cancelling `shutdown` ends open event streams and [`crate::serve`].
    pub fn new(store: Store, config: Arc<ApiConfig>, shutdown: CancellationToken) -> Self {
        let meter = Arc::new(Meter::new(env!("CARGO_PKG_VERSION"), engine::VERSION));
        Self { store, config, shutdown, planning: Arc::new(Semaphore::new(PLANS_AT_ONCE_MAX)), meter }
    }

    /// Counts there, with the rest of the process.
    pub fn with_meter(self, meter: Arc<Meter>) -> Self {
        Self { meter, ..self }
    }
}
