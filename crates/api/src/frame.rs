//! Frames of an event stream as text (<https://html.spec.whatwg.org/multipage/server-sent-events.html>), so that one is made
//! once for all who get it.

use serde::Serialize;

use crate::event_object::EventObject;

/// A comment that keeps proxies from closing a silent connection.
pub(crate) const KEEP_ALIVE: &str = ": keep-alive\n\n";

/// Without an id. JSON in one line needs no second `data`.
pub(crate) fn frame(kind: &str, data: &impl Serialize) -> String {
    let data = serde_json::to_string(data).expect("objects of texts and numbers are JSON");
    format!("event: {kind}\ndata: {data}\n\n")
}

/// Of a stored event, without its id.
pub(crate) fn of_event(event: &EventObject) -> String {
    frame(event.kind.as_str(), event)
}
