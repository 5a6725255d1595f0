//! What every handler shares.

use std::{path::PathBuf, sync::Arc, time::Duration};

use checkpoint::{Access, OutputRoots};
use engine::Settings;
use jobs::Store;
use meter::Meter;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use webhook::WebhookConfig;

use crate::ApiLimits;
use crate::in_flight::InFlight;
use crate::limits::{
    BODY_SECONDS_MAX, CONNECTIONS_MAX, HEAD_SECONDS_MAX, PLANS_AT_ONCE_MAX, STALL_SECONDS_MAX, STREAMS_MAX,
    STREAMS_PER_KEY_MAX,
};
use crate::live::Live;
use crate::rate_limit::{self, Clock, Limiter};

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
    /// Whose pages may send requests from a browser, as `https://dash.example.org`.
    pub allowed_origins: Vec<String>,
    pub streams: StreamLimits,
    pub connections: ConnectionLimits,
    pub limits: ApiLimits,
    /// Where merges work and, by default, artifacts stay.
    pub data_dir: PathBuf,
    pub webhooks: WebhookConfig,
}

impl ApiConfig {
    /// Where jobs that name no output are published.
    pub(crate) fn artifacts(&self) -> PathBuf {
        self.data_dir.join("artifacts")
    }
}

/// What a connection may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open at once.
    pub max: usize,
    /// For the head of a request, also until the next one begins.
    pub head: Duration,
    /// For all of its body.
    pub body: Duration,
    /// Until a client takes more of an answer.
    pub stall: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max: CONNECTIONS_MAX,
            head: Duration::from_secs(HEAD_SECONDS_MAX),
            body: Duration::from_secs(BODY_SECONDS_MAX),
            stall: Duration::from_secs(STALL_SECONDS_MAX),
        }
    }
}

/// How many event streams may be open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    /// On this server.
    pub max: usize,
    /// Of one API key.
    pub per_key_max: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { max: STREAMS_MAX, per_key_max: STREAMS_PER_KEY_MAX }
    }
}

#[derive(Clone)]
pub struct Api {
    pub(crate) store: Store,
    pub(crate) config: Arc<ApiConfig>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) planning: Arc<Semaphore>,
    pub(crate) live: Arc<Live>,
    pub(crate) in_flight: InFlight,
    pub(crate) limiter: Arc<Limiter>,
    /// What the limiter counts by.
    pub(crate) clock: Clock,
    pub(crate) meter: Arc<Meter>,
}

impl Api {
    /// To be called on the runtime that serves. Cancelling `shutdown` ends open event streams and [`crate::serve`].
    pub fn new(store: Store, config: Arc<ApiConfig>, shutdown: CancellationToken) -> Self {
        let live = Live::start(store.clone(), config.streams, shutdown.clone());
        let limiter = Arc::new(Limiter::new(&config.limits));
        let planning = Arc::new(Semaphore::new(PLANS_AT_ONCE_MAX));
        let in_flight = InFlight::default();
        let meter = Arc::new(Meter::new(env!("CARGO_PKG_VERSION"), engine::VERSION));
        Self { store, config, shutdown, planning, live, in_flight, limiter, clock: rate_limit::since_start(), meter }
    }

    /// Counts there, with the rest of the process.
    pub fn with_meter(self, meter: Arc<Meter>) -> Self {
        Self { meter, ..self }
    }
}
