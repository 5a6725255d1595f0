//! Settings of our process: flags, then `AMALGAM_*` variables, then a TOML file, then defaults. This file, `limits.rs`
//! and `cli.rs` are the only ones that read the environment.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::{ApiLimits, ConnectionLimits, StreamLimits};
use checkpoint::{Access, OutputRoots};
use clap::{Args, ValueEnum};
use jobs::{Limits, Retention};
use serde::Deserialize;
use webhook::{Network, Reach};

use crate::limits::LimitArgs;
use crate::report::Failure;
use crate::size::Bytes;

/// Threads and workers at most: far above any machine, far below what exhausts one.
const THREADS_MAX: usize = 1024;
const WORKERS_MAX: usize = 256;
const DAY: u64 = 24 * 3600;
const COUNT_MAX: u32 = 1_000_000;

/// What a merge may use; also for merges without a server.
#[derive(Debug, Clone, Default, Args, Deserialize)]
pub struct MergeArgs {
    /// Memory for the buffers of one merge [default: 192MiB], and for what it must hold whole: matrices that are decomposed,
    /// factors of adapters [default: 4GiB].
    #[arg(long, env = "AMALGAM_MEMORY")]
    pub memory: Option<Bytes>,
    /// Threads of one merge [default: all cores].
    #[arg(long, env = "AMALGAM_THREADS", value_parser = threads)]
    pub threads: Option<usize>,
    /// Size of an output shard at most [default: 5GB].
    #[arg(long, env = "AMALGAM_SHARD_BYTES")]
    pub shard_bytes: Option<Bytes>,
    /// Where digests of input files are kept, so that a file is digested once [default: amalgam/digests in the user's cache;
    /// of a server, below its data directory].
    #[arg(long, env = "AMALGAM_DIGESTS")]
    pub digests: Option<PathBuf>,
}

/// Where a merge without a server keeps digests: in the user's cache, where the system names one.
pub fn cached_digests() -> Option<PathBuf> {
    let named = |variable: &str| std::env::var_os(variable).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")))?;
    cache.is_absolute().then(|| cache.join("amalgam").join("digests"))
}

fn threads(text: &str) -> Result<usize, String> {
    bounded(text.parse().map_err(|_| format!("{text:?} is no number of threads"))?, THREADS_MAX)
}

fn bounded(number: usize, max: usize) -> Result<usize, String> {
    if number <= max { Ok(number) } else { Err(format!("{number} is more than the {max} allowed")) }
}

impl MergeArgs {
    /// `digests` is where they are kept unless this says otherwise.
    pub fn settings(&self, digests: Option<PathBuf>) -> engine::Settings {
        let default = engine::Settings::default();
        engine::Settings {
            memory: self.memory.map_or(default.memory, |m| m.0),
            held_memory: self.memory.map_or(default.held_memory, |m| m.0),
            threads: self.threads.unwrap_or(default.threads),
            shard_bytes: self.shard_bytes.map_or(default.shard_bytes, |s| s.0),
            known_digests: engine::KnownDigests(self.digests.clone().or(digests)),
        }
    }

    fn or(self, other: MergeArgs) -> MergeArgs {
        MergeArgs {
            memory: self.memory.or(other.memory),
            threads: self.threads.or(other.threads),
            shard_bytes: self.shard_bytes.or(other.shard_bytes),
            digests: self.digests.or(other.digests),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// A TOML file with these settings, dashes written as underscores.
    #[arg(long, env = "AMALGAM_CONFIG")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub values: Values,
}

/// Every setting, none of them set.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Values {
    /// Address to serve on [default: 127.0.0.1:8080].
    #[arg(long, env = "AMALGAM_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Serve on an address that others can reach without a key.
    #[arg(long, env = "AMALGAM_INSECURE_LISTEN", num_args = 0..=1, default_missing_value = "true")]
    pub insecure_listen: Option<bool>,
    /// Address to serve Prometheus metrics on, of a server or a worker [default: none].
    #[arg(long, env = "AMALGAM_METRICS_LISTEN")]
    pub metrics_listen: Option<SocketAddr>,
    /// Names by which the server may be addressed, as in the Host header; `*` for any; repeatable [default: localhost,
    /// 127.0.0.1, [::1] and the address it listens on]. Keeps web pages from reaching it by a name of their own.
    #[arg(long, env = "AMALGAM_ALLOWED_HOST", value_delimiter = ',')]
    #[serde(default)]
    pub allowed_host: Vec<String>,
    /// Origins of web pages that may use the API from a browser, as `https://dash.example.org`; repeatable [default: none but
    /// the server's own].
    #[arg(long, env = "AMALGAM_ALLOWED_ORIGIN", value_delimiter = ',')]
    #[serde(default)]
    pub allowed_origin: Vec<String>,
    /// Open connections of the server; others wait [default: 16384].
    #[arg(long, env = "AMALGAM_CONNECTIONS_MAX")]
    pub connections_max: Option<u32>,
    /// Seconds for the head of a request, and between two requests of a connection [default: 30].
    #[arg(long, env = "AMALGAM_HEAD_SECONDS_MAX")]
    pub head_seconds_max: Option<u64>,
    /// Seconds for the body of a request [default: 30].
    #[arg(long, env = "AMALGAM_BODY_SECONDS_MAX")]
    pub body_seconds_max: Option<u64>,
    /// A client that takes nothing of its answer for so many seconds is cut off [default: 60].
    #[arg(long, env = "AMALGAM_CLIENT_STALL_SECONDS_MAX")]
    pub client_stall_seconds_max: Option<u64>,
    /// Open event streams of the server [default: 10000].
    #[arg(long, env = "AMALGAM_STREAMS_MAX")]
    pub streams_max: Option<u32>,
    /// Open event streams of one API key, on each server [default: 100].
    #[arg(long, env = "AMALGAM_STREAMS_PER_KEY_MAX")]
    pub streams_per_key_max: Option<u32>,
    /// sqlite://PATH or postgres://... [default: sqlite://<data-dir>/amalgam.db].
    #[arg(long, env = "AMALGAM_DATABASE", hide_env_values = true)]
    pub database: Option<String>,
    /// postgres://... past a pooler of transactions, such as PgBouncer, that `database` leads through: for the schema and for
    /// notifications.
    #[arg(long, env = "AMALGAM_DATABASE_DIRECT", hide_env_values = true)]
    pub database_direct: Option<String>,
    /// Where database, work and artifacts are kept [default: ./amalgam-data].
    #[arg(long, env = "AMALGAM_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Local models of posted recipes are looked for here and nowhere else; repeatable [default: the current directory].
    #[arg(long, env = "AMALGAM_SOURCE_ROOT", value_delimiter = ':')]
    #[serde(default)]
    pub source_root: Vec<PathBuf>,
    /// Jobs may name outputs below these; repeatable [default: <data-dir>/artifacts].
    #[arg(long, env = "AMALGAM_OUTPUT_ROOT", value_delimiter = ':')]
    #[serde(default)]
    pub output_root: Vec<PathBuf>,
    /// Workers inside the server [default: 1 on SQLite, 0 on Postgres].
    #[arg(long, env = "AMALGAM_WORKERS")]
    pub workers: Option<usize>,
    /// Jobs that a worker runs at once [default: 1].
    #[arg(long, env = "AMALGAM_SLOTS")]
    pub slots: Option<usize>,
    /// Memory for all jobs that a worker runs at once; a job waits while its plan needs more than is left
    /// [default: no limit].
    #[arg(long, env = "AMALGAM_WORKER_MEMORY")]
    pub worker_memory: Option<Bytes>,
    /// What jobs may ask of their worker, as in `gpu-node`; repeatable.
    #[arg(long, env = "AMALGAM_WORKER_LABEL", value_delimiter = ',')]
    #[serde(default)]
    pub worker_label: Vec<String>,
    /// Jobs that run at once, over all workers [default: no limit].
    #[arg(long, env = "AMALGAM_RUNNING_MAX")]
    pub running_max: Option<u32>,
    /// Jobs of one API key that run at once, over all workers [default: no limit].
    #[arg(long, env = "AMALGAM_RUNNING_PER_KEY_MAX")]
    pub running_per_key_max: Option<u32>,
    /// How long a worker that was not heard of keeps its jobs, in seconds [default: 60].
    #[arg(long, env = "AMALGAM_LEASE_SECONDS")]
    pub lease_seconds: Option<u64>,
    /// A job that makes no progress for so many seconds is stopped and tried again [default: 1800].
    #[arg(long, env = "AMALGAM_STALL_SECONDS")]
    pub stall_seconds: Option<u64>,
    /// Jobs are forgotten so many days after their end, with their events; their artifacts stay [default: never].
    #[arg(long, env = "AMALGAM_KEEP_JOBS_DAYS")]
    pub keep_jobs_days: Option<u64>,
    /// Event logs are forgotten so many days after the end of their job [default: with the job].
    #[arg(long, env = "AMALGAM_KEEP_EVENTS_DAYS")]
    pub keep_events_days: Option<u64>,
    /// The key that secrets of webhooks are derived from, the same for all servers of a database; made where it is missing
    /// [default: <data-dir>/webhook.key].
    #[arg(long, env = "AMALGAM_WEBHOOK_KEY_FILE")]
    pub webhook_key_file: Option<PathBuf>,
    /// Webhooks may go to `http://` addresses, too.
    #[arg(long, env = "AMALGAM_WEBHOOK_INSECURE_HTTP", num_args = 0..=1, default_missing_value = "true")]
    pub webhook_insecure_http: Option<bool>,
    /// Webhooks may go into this network although it is not the internet's, as in 10.1.0.0/16; repeatable.
    #[arg(long, env = "AMALGAM_WEBHOOK_ALLOW_NETWORK", value_delimiter = ',')]
    #[serde(default)]
    pub webhook_allow_network: Vec<String>,
    #[command(flatten)]
    #[serde(flatten)]
    pub api_limits: LimitArgs,
    /// Entries of the audit log are forgotten after so many days [default: never].
    #[arg(long, env = "AMALGAM_KEEP_AUDIT_DAYS")]
    pub keep_audit_days: Option<u64>,
    #[command(flatten)]
    #[serde(flatten)]
    pub merge: MergeArgs,
    /// What to log, as in `info` or `warn,worker=debug` [default: info].
    #[arg(long, env = "AMALGAM_LOG")]
    pub log: Option<String>,
    /// How to log [default: text].
    #[arg(long, env = "AMALGAM_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
    /// http://HOST:4318 of a collector of OpenTelemetry that spans are sent to [default: none].
    #[arg(long, env = "AMALGAM_OTLP_ENDPOINT", hide_env_values = true)]
    pub otlp_endpoint: Option<String>,
}

impl Values {
    fn or(self, other: Values) -> Values {
        fn first<T>(a: Vec<T>, b: Vec<T>) -> Vec<T> {
            if a.is_empty() { b } else { a }
        }
        Values {
            listen: self.listen.or(other.listen),
            insecure_listen: self.insecure_listen.or(other.insecure_listen),
            metrics_listen: self.metrics_listen.or(other.metrics_listen),
            allowed_host: first(self.allowed_host, other.allowed_host),
            allowed_origin: first(self.allowed_origin, other.allowed_origin),
            connections_max: self.connections_max.or(other.connections_max),
            head_seconds_max: self.head_seconds_max.or(other.head_seconds_max),
            body_seconds_max: self.body_seconds_max.or(other.body_seconds_max),
            client_stall_seconds_max: self.client_stall_seconds_max.or(other.client_stall_seconds_max),
            streams_max: self.streams_max.or(other.streams_max),
            streams_per_key_max: self.streams_per_key_max.or(other.streams_per_key_max),
            database: self.database.or(other.database),
            database_direct: self.database_direct.or(other.database_direct),
            data_dir: self.data_dir.or(other.data_dir),
            source_root: first(self.source_root, other.source_root),
            output_root: first(self.output_root, other.output_root),
            workers: self.workers.or(other.workers),
            slots: self.slots.or(other.slots),
            worker_memory: self.worker_memory.or(other.worker_memory),
            worker_label: first(self.worker_label, other.worker_label),
            running_max: self.running_max.or(other.running_max),
            running_per_key_max: self.running_per_key_max.or(other.running_per_key_max),
            lease_seconds: self.lease_seconds.or(other.lease_seconds),
            stall_seconds: self.stall_seconds.or(other.stall_seconds),
            keep_jobs_days: self.keep_jobs_days.or(other.keep_jobs_days),
            keep_events_days: self.keep_events_days.or(other.keep_events_days),
            api_limits: self.api_limits.or(other.api_limits),
            webhook_key_file: self.webhook_key_file.or(other.webhook_key_file),
            webhook_insecure_http: self.webhook_insecure_http.or(other.webhook_insecure_http),
            webhook_allow_network: first(self.webhook_allow_network, other.webhook_allow_network),
            keep_audit_days: self.keep_audit_days.or(other.keep_audit_days),
            merge: self.merge.or(other.merge),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
            otlp_endpoint: self.otlp_endpoint.or(other.otlp_endpoint),
        }
    }
}

/// The settings as they are.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    /// Others may reach it without a key.
    pub insecure_listen: bool,
    pub metrics_listen: Option<SocketAddr>,
    /// `None` for any.
    pub allowed_hosts: Option<Vec<String>>,
    pub allowed_origins: Vec<String>,
    pub connections: ConnectionLimits,
    pub streams: StreamLimits,
    pub database: String,
    pub database_direct: Option<String>,
    pub artifacts: PathBuf,
    pub work: PathBuf,
    pub alive: PathBuf,
    pub access: Access,
    /// Where database, work and artifacts are.
    pub data_dir: PathBuf,
    pub outputs: OutputRoots,
    pub workers: usize,
    /// Of each worker.
    pub slots: usize,
    pub worker_memory: Option<u64>,
    pub worker_labels: BTreeSet<String>,
    pub limits: Limits,
    /// Of what clients ask.
    pub api_limits: ApiLimits,
    pub lease: Duration,
    pub stall: Duration,
    pub retention: Retention,
    /// The file of the key that secrets of webhooks are derived from.
    pub webhook_key: PathBuf,
    pub webhook_reach: Reach,
    pub settings: engine::Settings,
    pub log: String,
    pub log_format: LogFormat,
    pub otlp_endpoint: Option<String>,
}

impl ConfigArgs {
    pub fn resolve(self) -> Result<Config, Failure> {
        let values = match &self.config {
            Some(path) => self.values.or(read(path)?),
            None => self.values,
        };
        let seconds = [("lease_seconds", values.lease_seconds, DAY), ("stall_seconds", values.stall_seconds, 30 * DAY)];
        let kept = [
            ("keep_jobs_days", values.keep_jobs_days, 36_500),
            ("keep_events_days", values.keep_events_days, 36_500),
            ("keep_audit_days", values.keep_audit_days, 36_500),
        ];
        for (name, value, max) in seconds.into_iter().chain(kept) {
            if value.is_some_and(|value| value > max) {
                return Err(Failure::refused(format!("{name}: it is at most {max}")));
            }
        }
        if values.worker_label.iter().any(String::is_empty) {
            return Err(Failure::refused("worker_label: a label is not empty"));
        }
        bounded(values.slots.unwrap_or(1), WORKERS_MAX).map_err(|e| Failure::refused(format!("slots: {e}")))?;
        if [values.lease_seconds, values.stall_seconds].contains(&Some(0))
            || [values.running_max, values.running_per_key_max].contains(&Some(0))
            || values.slots == Some(0)
        {
            return Err(Failure::refused(
                "slots, running_max, running_per_key_max, lease_seconds and stall_seconds are at least 1",
            ));
        }
        bounded(values.workers.unwrap_or(0), WORKERS_MAX).map_err(|e| Failure::refused(format!("workers: {e}")))?;
        bounded(values.merge.threads.unwrap_or(0), THREADS_MAX)
            .map_err(|e| Failure::refused(format!("threads: {e}")))?;
        let (connections, streams) = (connections(&values)?, streams(&values)?);
        values.allowed_origin.iter().try_for_each(|origin| check_origin(origin))?;
        let listen = values.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)));
        if values.metrics_listen.is_some_and(|metrics| metrics == listen && metrics.port() != 0) {
            return Err(Failure::refused("metrics_listen: metrics have an address of their own, not that of `listen`"));
        }
        if let Some(endpoint) = &values.otlp_endpoint
            && !endpoint.starts_with("http://")
            && !endpoint.starts_with("https://")
        {
            return Err(Failure::refused(
                "otlp_endpoint: it begins with http:// or https://, as http://localhost:4318",
            ));
        }
        let data_dir = absolute(&values.data_dir.unwrap_or_else(|| "amalgam-data".into()))?;
        let database = values.database.unwrap_or_else(|| format!("sqlite://{}", data_dir.join("amalgam.db").display()));
        if values.database_direct.is_some() && database.starts_with("sqlite:") {
            return Err(Failure::refused(
                "database_direct is for a Postgres behind a pooler; leave it out with SQLite",
            ));
        }
        let artifacts = data_dir.join("artifacts");
        let mut roots = values.output_root.iter().map(|root| absolute(root)).collect::<Result<Vec<_>, _>>()?;
        if roots.is_empty() {
            roots.push(artifacts.clone());
        }
        let default_root = [PathBuf::from(".")];
        let sources = if values.source_root.is_empty() { &default_root[..] } else { &values.source_root };
        let sources = sources.iter().map(|root| absolute(root)).collect::<Result<Vec<_>, _>>()?;
        if let Some(missing) = sources.iter().find(|root| !root.is_dir()) {
            return Err(Failure::refused(format!("source root {} is no directory", missing.display())));
        }
        let webhook_key = match &values.webhook_key_file {
            Some(file) => absolute(file)?,
            None => data_dir.join("webhook.key"),
        };
        let settings = values.merge.settings(Some(data_dir.join("digests")));
        let (work, alive) = (data_dir.join("work"), data_dir.join("workers"));
        Ok(Config {
            listen,
            insecure_listen: values.insecure_listen == Some(true),
            metrics_listen: values.metrics_listen,
            allowed_hosts: allowed_hosts(values.allowed_host, listen),
            allowed_origins: values.allowed_origin,
            connections,
            streams,
            workers: values.workers.unwrap_or(usize::from(database.starts_with("sqlite:"))),
            slots: values.slots.unwrap_or(1),
            worker_memory: values.worker_memory.map(|memory| memory.0),
            worker_labels: values.worker_label.into_iter().collect(),
            limits: Limits {
                running_max: values.running_max.unwrap_or(u32::MAX),
                running_per_owner_max: values.running_per_key_max.unwrap_or(u32::MAX),
            },
            api_limits: values.api_limits.resolve()?,
            lease: values.lease_seconds.map_or(worker::LEASE, Duration::from_secs),
            stall: values.stall_seconds.map_or(worker::STALL, Duration::from_secs),
            retention: Retention {
                jobs: values.keep_jobs_days.map(days),
                events: values.keep_events_days.map(days),
                workers: Some(days(1)),
                audit: values.keep_audit_days.map(days),
            },
            webhook_key,
            webhook_reach: Reach {
                insecure_http: values.webhook_insecure_http == Some(true),
                networks: networks(&values.webhook_allow_network)?,
            },
            database,
            database_direct: values.database_direct,
            artifacts,
            work,
            alive,
            access: Access::Under(sources),
            data_dir,
            outputs: OutputRoots::new(roots),
            settings,
            log: values.log.unwrap_or_else(|| "info,sqlx::postgres::notice=warn".to_owned()),
            log_format: values.log_format.unwrap_or(LogFormat::Text),
            otlp_endpoint: values.otlp_endpoint,
        })
    }
}

/// Each at least 1, and at most an hour or a million.
fn connections(values: &Values) -> Result<ConnectionLimits, Failure> {
    let default = ConnectionLimits::default();
    Ok(ConnectionLimits {
        max: count("connections_max", values.connections_max, default.max)?,
        head: hour_at_most("head_seconds_max", values.head_seconds_max, default.head)?,
        body: hour_at_most("body_seconds_max", values.body_seconds_max, default.body)?,
        stall: hour_at_most("client_stall_seconds_max", values.client_stall_seconds_max, default.stall)?,
    })
}

fn streams(values: &Values) -> Result<StreamLimits, Failure> {
    let default = StreamLimits::default();
    Ok(StreamLimits {
        max: count("streams_max", values.streams_max, default.max)?,
        per_key_max: count("streams_per_key_max", values.streams_per_key_max, default.per_key_max)?,
    })
}

fn count(name: &str, value: Option<u32>, default: usize) -> Result<usize, Failure> {
    match value {
        None => Ok(default),
        Some(value) if (1..=COUNT_MAX).contains(&value) => Ok(value as usize),
        Some(value) => Err(Failure::refused(format!("{name} is {value}; it goes from 1 to {COUNT_MAX}"))),
    }
}

fn hour_at_most(name: &str, seconds: Option<u64>, default: Duration) -> Result<Duration, Failure> {
    match seconds {
        None => Ok(default),
        Some(seconds) if (1..=3600).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        Some(seconds) => Err(Failure::refused(format!("{name} is {seconds}; it goes from 1 to 3600"))),
    }
}

/// As a browser sends it: scheme and host, and a port where it is not the scheme's own.
fn check_origin(origin: &str) -> Result<(), Failure> {
    let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let is_plain = |rest: &str| {
        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]".contains(&b))
    };
    if rest.is_some_and(is_plain) {
        return Ok(());
    }
    Err(Failure::refused(format!("allowed_origin is {origin:?}; write it as a browser does, https://dash.example.org")))
}

fn days(count: u64) -> Duration {
    Duration::from_secs(count.saturating_mul(DAY))
}

fn allowed_hosts(named: Vec<String>, listen: SocketAddr) -> Option<Vec<String>> {
    if named.iter().any(|host| host == "*") {
        return None;
    }
    let local = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned);
    let here = (!listen.ip().is_unspecified()).then(|| match listen.ip() {
        std::net::IpAddr::V4(ip) => ip.to_string(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
    });
    Some(if named.is_empty() { local.into_iter().chain(here).collect() } else { named })
}

fn networks(named: &[String]) -> Result<Vec<Network>, Failure> {
    let network = |text: &String| text.parse().map_err(|e| Failure::refused(format!("webhook_allow_network: {e}")));
    named.iter().map(network).collect()
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::refused(format!("{}: {e}", path.display())))
}

fn read(path: &Path) -> Result<Values, Failure> {
    let refused = |error: String| Failure::refused(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| refused(e.to_string()))?;
    let table: toml::Table = toml::from_str(&text).map_err(|e| refused(e.to_string()))?;
    // the flattened part hides unknown names from serde, so they are looked for here
    let known = names();
    if let Some(unknown) = table.keys().find(|name| !known.contains(name)) {
        let near = recipe::nearest(unknown, known.iter().map(String::as_str));
        let advice = near.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
        return Err(refused(format!("unknown setting `{unknown}`{advice}")));
    }
    toml::from_str(&text).map_err(|e| refused(e.to_string()))
}

/// Names of all settings, as in the file.
fn names() -> Vec<String> {
    Values::augment_args(clap::Command::new("")).get_arguments().map(|arg| arg.get_id().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(values: Values, file: Option<&str>) -> (tempfile::TempDir, ConfigArgs) {
        let dir = tempfile::tempdir().unwrap();
        let config = file.map(|text| {
            let path = dir.path().join("amalgam.toml");
            std::fs::write(&path, text).unwrap();
            path
        });
        (dir, ConfigArgs { config, values })
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let flags = Values { workers: Some(3), ..Values::default() };
        let (_dir, args) = args(flags, Some("workers = 5\nmemory = \"2GiB\"\nthreads = 7\n"));
        let config = args.resolve().unwrap();
        assert_eq!((config.workers, config.settings.memory, config.settings.threads), (3, 2 << 30, 7));
        assert_eq!(config.settings.shard_bytes, 5_000_000_000);
    }

    #[test]
    fn the_example_config_is_accepted() {
        let text = std::fs::read_to_string(testkit::workspace().join("deploy/amalgam.example.toml")).unwrap();
        let (_dir, args) = args(Values::default(), Some(&text));
        args.resolve().unwrap();
        let uncommented: Vec<&str> = text
            .lines()
            .filter_map(|l| l.strip_prefix('#'))
            .filter(|l| !l.starts_with(' ') && l.contains(" = "))
            .collect();
        let named: Vec<&str> =
            uncommented.iter().chain(&text.lines().collect::<Vec<_>>()).filter_map(|l| l.split(" = ").next()).collect();
        for name in names() {
            assert!(named.contains(&name.as_str()), "the example does not show `{name}`");
        }
    }

    #[test]
    fn webhooks_go_where_the_operator_allows_and_no_network_is_guessed() {
        let (_dir, open) = args(Values::default(), Some("webhook_allow_network = [\"10.1.0.0/16\", \"fd00::/8\"]\n"));
        let config = open.resolve().unwrap();
        assert_eq!((config.webhook_reach.networks.len(), config.webhook_reach.insecure_http), (2, false));
        assert_eq!(config.webhook_key, config.data_dir.join("webhook.key"));
        let (_dir, wrong) = args(Values::default(), Some("webhook_allow_network = [\"inside\"]\n"));
        assert!(wrong.resolve().unwrap_err().to_string().contains("webhook_allow_network"));
    }

    #[test]
    fn a_typo_in_the_file_is_named() {
        let (_dir, args) = args(Values::default(), Some("worker = 5\n"));
        assert!(args.resolve().unwrap_err().to_string().contains("did you mean `workers`?"));
    }
}
