//! Spans of a process, sent to a collector of OpenTelemetry by OTLP over HTTP.
//!
//! Invariant: nothing waits for the collector but the end of the process, and that not for long. What it does not take is lost.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState, TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

const NAME: &str = "amalgam";
/// Where a collector takes traces, below its address.
const PATH: &str = "v1/traces";
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// How long the process waits at its end.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Whose spans are sent: ours, and none of the libraries that send them.
const OURS: [&str; 5] = ["amalgam", "api", "engine", "jobs", "worker"];

#[derive(Debug, thiserror::Error)]
#[error("spans cannot be sent to otlp_endpoint: {reason}")]
pub struct SpansError {
    reason: String,
}

/// Sends what is left when it is dropped.
#[derive(Debug)]
pub struct Sending(SdkTracerProvider);

impl Drop for Sending {
    fn drop(&mut self) {
        // the process ends, and whoever reads its log is not helped by this
        let _ = self.0.shutdown_with_timeout(END_WITHIN);
    }
}

/// `endpoint` is the address of a collector, as `http://127.0.0.1:4318`.
pub fn start<S>(endpoint: &str, version: &'static str) -> Result<(impl Layer<S> + Send + Sync, Sending), SpansError>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let endpoint = endpoint.trim_end_matches('/');
    // the address may hold a password
    let refused = |reason: String| SpansError { reason: reason.replace(endpoint, "...") };
    // in a process that has chosen one already it stays
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{endpoint}/{PATH}"))
        .with_timeout(SEND_WITHIN)
        .build()
        .map_err(|error| refused(error.to_string()))?;
    let resource =
        Resource::builder().with_service_name(NAME).with_attribute(KeyValue::new("service.version", version)).build();
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    let ours = Targets::new().with_targets(OURS.map(|target| (target, LevelFilter::INFO)));
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer(NAME)).with_filter(ours);
    Ok((layer, Sending(provider)))
}

/// Has a span tell of another trace that it belongs to, as W3C Trace Context writes it. What is wrong is left away.
pub fn link(span: &tracing::Span, traceparent: &str) {
    if let Some(context) = read(traceparent) {
        span.add_link(context);
    }
}

fn read(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let parent = SpanId::from_hex(parts.next()?).ok()?;
    let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
    Some(SpanContext::new(trace, parent, TraceFlags::new(flags), true, TraceState::default()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// A collector that takes one request, and gives it back as it came.
    fn collect_one(listener: TcpListener) -> Vec<u8> {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let read = stream.read(&mut buffer).unwrap();
            request.extend_from_slice(&buffer[..read]);
            if read == 0 || is_whole(&request) {
                break;
            }
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        request
    }

    fn is_whole(request: &[u8]) -> bool {
        let Some(end) = request.windows(4).position(|part| part == b"\r\n\r\n") else { return false };
        let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        length.is_some_and(|length: usize| request.len() >= end + 4 + length)
    }

    fn holds(all: &[u8], part: &[u8]) -> bool {
        all.windows(part.len()).any(|found| found == part)
    }

    /// In a runtime, as in the binary: what sends blocks, and must not do so on a thread that may not.
    #[tokio::test]
    async fn a_span_reaches_the_collector_with_its_fields_and_its_link() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/", listener.local_addr().unwrap());
        let collector = std::thread::spawn(move || collect_one(listener));
        let (layer, sending) = start(&endpoint, "1.2.3").unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let span = tracing::info_span!(target: "worker", "job", request_id = "request-7");
            link(&span, TRACEPARENT);
            link(&span, "nonsense");
            span.in_scope(|| tracing::info!(target: "worker", "job started"));
            tracing::info_span!(target: "hyper", "of-a-library").in_scope(|| ());
        });
        drop(sending);
        let request = collector.join().unwrap();
        assert!(request.starts_with(b"POST /v1/traces HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&request));
        for told in ["job", "request-7", "job started", "amalgam", "1.2.3"] {
            assert!(holds(&request, told.as_bytes()), "{told}");
        }
        assert!(!holds(&request, b"of-a-library"));
        let trace = read(TRACEPARENT).unwrap().trace_id().to_bytes();
        assert!(holds(&request, &trace), "the link names the trace of the request");
    }

    #[test]
    fn an_address_that_is_none_is_refused_without_its_password() {
        let error =
            start::<tracing_subscriber::Registry>("http://me:secret@not an address/", "1").err().expect("refused");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
