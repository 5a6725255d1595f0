//! What a process counts of itself, for Prometheus.
//!
//! Invariant: every label has few values, all of them from our own words: no path, id, address or text of a user is one.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, prometheus_text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

/// Of phases of jobs, in seconds: from what tiny models take up to nine hours.
const JOB_SECONDS: [f64; 12] = [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 5400.0, 10_800.0, 32_400.0];
/// Of requests, in seconds: up to what `Prefer: wait` holds an answer.
const REQUEST_SECONDS: [f64; 10] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0, 60.0];

/// How an attempt at a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    Succeeded,
    Failed,
    Cancelled,
    /// It failed, and another will follow.
    Retried,
    /// Its worker stops or lost its database: another goes on where it stood.
    GivenBack,
    /// Another worker has the job by now.
    LeaseLost,
    /// The queue could not be told.
    Untold,
}

impl Attempt {
    pub const ALL: [Self; 7] =
        [Self::Succeeded, Self::Failed, Self::Cancelled, Self::Retried, Self::GivenBack, Self::LeaseLost, Self::Untold];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Retried => "retried",
            Self::GivenBack => "given_back",
            Self::LeaseLost => "lease_lost",
            Self::Untold => "untold",
        }
    }

    /// Whether the job is over with it.
    pub const fn is_last(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
            Self::Retried | Self::GivenBack | Self::LeaseLost | Self::Untold => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobLabels {
    status: &'static str,
    method: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

/// All that is counted. Shared by what counts in one process, and by nothing beyond it.
#[derive(Debug)]
pub struct Meter {
    registry: Registry,
    jobs_ended: Family<JobLabels, Counter>,
    jobs: Family<StatusLabels, Gauge>,
    oldest_age_seconds: Gauge<f64, AtomicU64>,
    phase_seconds: Family<PhaseLabels, Histogram>,
    attempts: Family<OutcomeLabels, Counter>,
    bytes_written: Counter,
    leases_lost: Counter,
    disk_free_bytes: Gauge,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<RouteLabels, Histogram>,
    webhook_deliveries: Family<OutcomeLabels, Counter>,
}

impl Meter {
    /// `engine` is the version that is part of a plan's identity.
    pub fn new(version: &'static str, engine: &'static str) -> Self {
        let mut meter = Self {
            registry: Registry::default(),
            jobs_ended: Family::default(),
            jobs: Family::default(),
            oldest_age_seconds: Gauge::default(),
            phase_seconds: Family::new_with_constructor(|| Histogram::new(JOB_SECONDS)),
            attempts: Family::default(),
            bytes_written: Counter::default(),
            leases_lost: Counter::default(),
            disk_free_bytes: Gauge::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(|| Histogram::new(REQUEST_SECONDS)),
            webhook_deliveries: Family::default(),
        };
        meter.register(version, engine);
        meter
    }

    /// Names of counters get their `_total` when they are written.
    fn register(&mut self, version: &'static str, engine: &'static str) {
        let registry = &mut self.registry;
        registry.register("merge_jobs", "Jobs that ended in this process", self.jobs_ended.clone());
        registry.register("merge_jobs", "Jobs of the queue by status", self.jobs.clone());
        let oldest = self.oldest_age_seconds.clone();
        registry.register("merge_queue_oldest_age_seconds", "Wait of the job that waits longest", oldest);
        registry.register("merge_job_duration_seconds", "Time of a job's phases", self.phase_seconds.clone());
        registry.register("merge_job_attempts", "Attempts that ended in this process", self.attempts.clone());
        registry.register("merge_bytes_written", "Bytes of merged models", self.bytes_written.clone());
        registry.register("merge_lease_lost", "Leases that were lost to other workers", self.leases_lost.clone());
        registry.register("merge_disk_free_bytes", "Room where merges are written", self.disk_free_bytes.clone());
        registry.register("http_requests", "Answered requests", self.requests.clone());
        registry.register("http_request_duration_seconds", "Time to an answer's head", self.request_seconds.clone());
        let deliveries = self.webhook_deliveries.clone();
        registry.register("merge_webhook_deliveries", "Deliveries of webhooks that were tried", deliveries);
        registry.register("merge_build", "What runs", Info::new([("version", version), ("engine", engine)]));
    }

    /// `method` is one that the engine knows.
    pub fn job_ended(&self, attempt: Attempt, method: &str) {
        let labels = JobLabels { status: attempt.as_str(), method: method.to_owned() };
        self.jobs_ended.get_or_create(&labels).inc();
    }

    pub fn attempt_ended(&self, attempt: Attempt) {
        self.attempts.get_or_create(&OutcomeLabels { outcome: attempt.as_str() }).inc();
        if attempt == Attempt::LeaseLost {
            self.leases_lost.inc();
        }
    }

    pub fn phase_took(&self, phase: &'static str, time: Duration) {
        self.phase_seconds.get_or_create(&PhaseLabels { phase }).observe(time.as_secs_f64());
    }

    pub fn wrote(&self, bytes: u64) {
        self.bytes_written.inc_by(bytes);
    }

    /// `route` is the pattern of a path; `None` where nothing is there.
    pub fn request_answered(&self, method: &str, route: Option<&str>, status: u16, time: Duration) {
        let route = route.unwrap_or("none").to_owned();
        let labels = RequestLabels { method: known(method), route: route.clone(), status };
        self.requests.get_or_create(&labels).inc();
        self.request_seconds.get_or_create(&RouteLabels { route }).observe(time.as_secs_f64());
    }

    pub fn webhook_tried(&self, outcome: &'static str) {
        self.webhook_deliveries.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// How the queue stands.
    pub fn set_queue(&self, jobs: impl IntoIterator<Item = (&'static str, i64)>, oldest_age_seconds: f64) {
        for (status, count) in jobs {
            self.jobs.get_or_create(&StatusLabels { status }).set(count);
        }
        self.oldest_age_seconds.set(oldest_age_seconds);
    }

    /// What was known of the queue is no more: nothing is better than what was true once.
    pub fn forget_queue(&self) {
        self.jobs.clear();
        self.oldest_age_seconds.set(f64::NAN);
    }

    pub fn set_disk_free(&self, bytes: u64) {
        self.disk_free_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// In the text format 0.0.4 of Prometheus, in which a counter and a gauge may differ by `_total` alone.
    pub fn text(&self) -> String {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.registry).expect("a string takes whatever is written to it");
        text
    }
}

/// A method of HTTP may be any word.
fn known(method: &str) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_written_by_the_names_that_dashboards_know() {
        let meter = Meter::new("1.2.3", "e7");
        meter.job_ended(Attempt::Succeeded, "slerp");
        meter.set_queue([("queued", 3), ("running", 0)], 12.5);
        for attempt in Attempt::ALL {
            meter.attempt_ended(attempt);
        }
        meter.phase_took("merging", Duration::from_secs(2));
        meter.wrote(1000);
        meter.set_disk_free(u64::MAX);
        meter.request_answered("GET", Some("/v1/jobs/{id}"), 404, Duration::from_millis(3));
        meter.request_answered("BREW", None, 405, Duration::ZERO);
        meter.webhook_tried("delivered");
        let text = meter.text();
        for line in [
            "merge_jobs_total{status=\"succeeded\",method=\"slerp\"} 1",
            "merge_jobs{status=\"queued\"} 3",
            "merge_queue_oldest_age_seconds 12.5",
            "merge_job_duration_seconds_bucket{phase=\"merging\",le=\"5\"} 1",
            "merge_job_duration_seconds_count{phase=\"merging\"} 1",
            "merge_job_attempts_total{outcome=\"given_back\"} 1",
            "merge_bytes_written_total 1000",
            "merge_lease_lost_total 1",
            "merge_disk_free_bytes 9223372036854775807",
            "merge_webhook_deliveries_total{outcome=\"delivered\"} 1",
            "merge_build_info{version=\"1.2.3\",engine=\"e7\"} 1",
            "http_requests_total{method=\"GET\",route=\"/v1/jobs/{id}\",status=\"404\"} 1",
            "http_requests_total{method=\"other\",route=\"none\",status=\"405\"} 1",
            "# TYPE merge_jobs_total counter",
            "# TYPE merge_jobs gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        meter.forget_queue();
        let text = meter.text();
        assert!(!text.contains("merge_jobs{") && text.contains("merge_queue_oldest_age_seconds NaN"), "{text}");
    }
}
