//! Where log lines and spans go. Spans go to a collector where one is named and the build can send them.

use jobs::Origin;
use tracing_subscriber::{Layer, Registry, layer::SubscriberExt, util::SubscriberInitExt};

use crate::report::Failure;

/// Sends what is left when it is dropped.
#[cfg(feature = "otlp")]
pub type Sending = Option<spans::Sending>;
#[cfg(not(feature = "otlp"))]
pub type Sending = ();

#[cfg(feature = "otlp")]
pub fn start(endpoint: Option<&str>, lines: Box<dyn Layer<Registry> + Send + Sync>) -> Result<Sending, Failure> {
    let Some(endpoint) = endpoint else {
        tracing_subscriber::registry().with(lines).init();
        return Ok(None);
    };
    let (spans, sending) = spans::start(endpoint, env!("CARGO_PKG_VERSION")).map_err(Failure::refused)?;
    tracing_subscriber::registry().with(lines).with(spans).init();
    Ok(Some(sending))
}

#[cfg(not(feature = "otlp"))]
pub fn start(endpoint: Option<&str>, lines: Box<dyn Layer<Registry> + Send + Sync>) -> Result<Sending, Failure> {
    if endpoint.is_some() {
        return Err(Failure::refused("otlp_endpoint: this amalgam was built without the feature `otlp`"));
    }
    tracing_subscriber::registry().with(lines).init();
    Ok(())
}

/// Has the span of an attempt tell of the trace that its job came with.
#[cfg(feature = "otlp")]
pub fn link(span: &tracing::Span, origin: &Origin) {
    if let Some(traceparent) = &origin.traceparent {
        spans::link(span, traceparent);
    }
}

#[cfg(not(feature = "otlp"))]
pub fn link(_: &tracing::Span, _: &Origin) {}
