//! `amalgam serve`: the API, with workers inside.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::{Api, ApiConfig};
use jobs::Store;
use meter::Meter;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use webhook::{MasterKey, WebhookConfig};
use worker::WorkerConfig;

use crate::cli::ServeArgs;
use crate::config::Config;
use crate::report::Failure;

pub async fn run(args: ServeArgs) -> Result<(), Failure> {
    let config = args.config.resolve()?;
    let _sending = super::start_logging(&config)?;
    let mut server = Server::start(config).await?;
    let broke = tokio::select! {
        () = super::asked_to_stop() => None,
        what = server.broken() => Some(what),
    };
    tracing::info!("stopping");
    server.stop().await?;
    // whoever watches over the process starts it again: better than accepting jobs that nobody runs
    broke.map_or(Ok(()), |what| Err(Failure::failed(what)))
}

/// A server that runs, and the workers inside it.
pub struct Server {
    /// `http://...`, where it can be reached from this machine.
    pub url: String,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
    house: tokio::task::JoinHandle<()>,
    telling: tokio::task::JoinHandle<()>,
    metrics: Option<tokio::task::JoinHandle<()>>,
    workers: JoinSet<()>,
    store: Store,
}

impl Server {
    pub async fn start(config: Config) -> Result<Server, Failure> {
        raise_open_files();
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|e| Failure::failed(format!("cannot listen on {}: {e}", config.listen)))?;
        let address = listener.local_addr().map_err(Failure::failed)?;
        let store = open_store(&config).await?;
        check_reach(&store, &config).await?;
        let shutdown = CancellationToken::new();
        let meter = super::metrics::new_meter();
        let metrics = super::metrics::start(&store, &config, meter.clone(), shutdown.clone()).await?;
        let webhooks = webhooks(&store, &config)?;
        let api = Api::new(store.clone(), Arc::new(api_config(&config, webhooks.clone())), shutdown.clone());
        let api = api.with_meter(meter.clone());
        let serving = tokio::spawn(api::serve(listener, api));
        let house = worker::keep_house(store.clone(), config.lease, config.retention, shutdown.clone());
        let house = tokio::spawn(house);
        let telling = tokio::spawn(webhook::dispatch(store.clone(), webhooks, meter.clone(), shutdown.clone()));
        let mut workers = JoinSet::new();
        for _ in 0..config.workers {
            let worker = worker::run(store.clone(), worker_config(&config, "server", &meter), shutdown.clone());
            // only one that runs once ends by an error
            workers.spawn(async { drop(worker.await) });
        }
        tracing::info!(%address, workers = config.workers, "serving");
        let url = format!("http://{}", reachable(address));
        Ok(Server { url, shutdown, serving, house, telling, metrics, workers, store })
    }

    /// Waits until a part of the server ends by itself, which none should.
    pub async fn broken(&mut self) -> &'static str {
        tokio::select! {
            broke = worker_broke(&mut self.workers) => broke,
            _ = &mut self.serving, if !self.serving.is_finished() => "the HTTP server ended by itself",
            _ = &mut self.house, if !self.house.is_finished() => "the queue's housekeeping ended by itself",
            _ = &mut self.telling, if !self.telling.is_finished() => "the sending of webhooks ended by itself",
        }
    }

    /// Ends open streams, gives running jobs back, and waits for all of it.
    pub async fn stop(mut self) -> Result<(), Failure> {
        self.shutdown.cancel();
        while self.workers.join_next().await.is_some() {}
        if !self.house.is_finished() {
            self.house.await.map_err(Failure::failed)?;
        }
        if !self.telling.is_finished() {
            self.telling.await.map_err(Failure::failed)?;
        }
        if let Some(metrics) = self.metrics {
            metrics.await.map_err(Failure::failed)?;
        }
        let served = if self.serving.is_finished() { Ok(()) } else { self.serving.await.map_err(Failure::failed)? };
        close(&self.store).await;
        served.map_err(Failure::failed)
    }
}

/// Each connection is an open file, and the usual limit of a process is less than a server may need. The hard limit is as far
/// as it may go.
fn raise_open_files() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    // it goes on with what there is
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
}

/// A database that fails over while the server starts is asked again.
pub async fn has_keys(store: &Store) -> jobs::Result<bool> {
    let until = tokio::time::Instant::now() + START_WITHIN;
    loop {
        match store.has_keys().await {
            Err(error) if error.is_transient() && tokio::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            answer => return answer,
        }
    }
}

const START_WITHIN: Duration = Duration::from_secs(10);

/// Without a key whoever reaches the server may do everything: then nobody else is to reach it.
async fn check_reach(store: &Store, config: &Config) -> Result<(), Failure> {
    if has_keys(store).await.map_err(Failure::failed)? {
        return Ok(());
    }
    if config.listen.ip().is_loopback() || config.insecure_listen {
        tracing::warn!(listen = %config.listen, "there are no API keys: whoever reaches this address may do everything");
        return Ok(());
    }
    Err(Failure::refused(format!(
        "{} can be reached from other machines, and there are no API keys; make one with `amalgam keys create`, serve on \
         127.0.0.1, or give --insecure-listen where something in front of the server decides who may reach it",
        config.listen
    )))
}

/// Waits until a worker panics. One that was drained has ended in order, and the API goes on.
async fn worker_broke(workers: &mut JoinSet<()>) -> &'static str {
    loop {
        match workers.join_next().await {
            Some(Ok(())) => tracing::info!("a worker has drained"),
            Some(Err(_)) => return "a worker ended by itself",
            None => std::future::pending().await,
        }
    }
}

/// An address that means all of this machine's is none to connect to.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    address
}

/// A connection to nobody is not waited for.
pub async fn close(store: &Store) {
    let _ = tokio::time::timeout(CLOSE_WITHIN, store.close()).await;
}

const CLOSE_WITHIN: Duration = Duration::from_secs(5);

pub async fn open_store(config: &Config) -> Result<Store, Failure> {
    let opened = match &config.database_direct {
        Some(direct) => Store::open_behind_pooler(&config.database, direct).await,
        None => Store::open(&config.database).await,
    };
    opened.map_err(|e| Failure::failed(format!("cannot open the database: {e}")))
}

/// With its key, which is made where there is none.
fn webhooks(store: &Store, config: &Config) -> Result<WebhookConfig, Failure> {
    let file = &config.webhook_key;
    if !store.is_sqlite() && !file.exists() {
        tracing::warn!(file = %file.display(), "a key for webhooks is made; every server of this database needs the same file");
    }
    let key = MasterKey::open(file).map_err(Failure::failed)?;
    Ok(WebhookConfig { reach: config.webhook_reach.clone(), key })
}

fn api_config(config: &Config, webhooks: WebhookConfig) -> ApiConfig {
    ApiConfig {
        access: config.access.clone(),
        private: vec![config.data_dir.clone()],
        outputs: config.outputs.clone(),
        settings: config.settings.clone(),
        allowed_hosts: config.allowed_hosts.clone(),
        allowed_origins: config.allowed_origins.clone(),
        streams: config.streams,
        connections: config.connections,
        limits: config.api_limits,
        data_dir: config.data_dir.clone(),
        webhooks,
    }
}

pub fn worker_config(config: &Config, name: &str, meter: &Arc<Meter>) -> WorkerConfig {
    WorkerConfig {
        name: name.to_owned(),
        access: config.access.clone(),
        private: vec![config.data_dir.clone()],
        outputs: config.outputs.clone(),
        artifacts: config.artifacts.clone(),
        alive: config.alive.clone(),
        work: config.work.clone(),
        settings: config.settings.clone(),
        lease: config.lease,
        // many beats may be lost before the lease is
        heartbeat: worker::HEARTBEAT.min(config.lease / 8),
        poll: worker::POLL,
        slots: config.slots,
        memory: config.worker_memory,
        labels: config.worker_labels.clone(),
        limits: config.limits,
        stall: config.stall,
        grace: worker::GRACE,
        once: false,
        retention: config.retention,
        meter: meter.clone(),
        link: super::telemetry::link,
    }
}
