//! The listener of metrics, of a server or a worker.

use std::net::SocketAddr;
use std::sync::Arc;

use api::Metrics;
use jobs::Store;
use meter::Meter;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::serve::has_keys;
use crate::config::Config;
use crate::report::Failure;

/// What all parts of this process count with.
pub fn new_meter() -> Arc<Meter> {
    Arc::new(Meter::new(env!("CARGO_PKG_VERSION"), engine::VERSION))
}

/// Nothing, where no address is set. A listener that ends by itself is told in the log; what it is to watch goes on.
pub async fn start(
    store: &Store,
    config: &Config,
    meter: Arc<Meter>,
    shutdown: CancellationToken,
) -> Result<Option<JoinHandle<()>>, Failure> {
    let Some(listen) = config.metrics_listen else { return Ok(None) };
    check_reach(store, config, listen).await?;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|e| Failure::failed(format!("cannot listen on {listen} for metrics: {e}")))?;
    let address = listener.local_addr().map_err(Failure::failed)?;
    tracing::info!(%address, "serving metrics");
    let metrics = Metrics::new(store.clone(), meter, config.work.clone());
    Ok(Some(tokio::spawn(async move {
        if let Err(error) = api::serve_metrics(listener, metrics, shutdown).await {
            tracing::error!(%error, "metrics are served no more");
        }
    })))
}

/// Without keys none can be asked for: then nobody else is to reach it.
async fn check_reach(store: &Store, config: &Config, listen: SocketAddr) -> Result<(), Failure> {
    if listen.ip().is_loopback() || config.insecure_listen || has_keys(store).await.map_err(Failure::failed)? {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "metrics on {listen} can be reached from other machines, and there are no API keys; make one with `amalgam keys create \
         --scope metrics`, listen on 127.0.0.1, or give --insecure-listen where something in front decides who may reach it"
    )))
}
