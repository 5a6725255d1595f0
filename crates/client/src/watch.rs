//! A job's event stream, resumed after every cut until its end.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use eventsource_stream::{Event, EventStreamError, Eventsource};
use futures::{Stream, StreamExt};
use serde_json::Value;

use crate::{Client, ClientError};

/// Reconnects in a row without an event between them, before the stream counts as lost.
const RECONNECTS_MAX: u32 = 30;
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq)]
pub struct StreamEvent {
    /// `snapshot`, `progress`, `end`, or the type of a stored event.
    pub kind: String,
    pub data: Value,
}

type Frames = Pin<Box<dyn Stream<Item = Result<Event, EventStreamError<reqwest::Error>>> + Send>>;

pub struct Watch {
    client: Client,
    id: String,
    last_event_id: String,
    frames: Option<Frames>,
    ready: VecDeque<StreamEvent>,
    ended: bool,
    reconnects: u32,
}

impl Watch {
    pub(crate) fn new(client: Client, id: String) -> Watch {
        Watch {
            client,
            id,
            last_event_id: String::new(),
            frames: None,
            ready: VecDeque::new(),
            ended: false,
            reconnects: 0,
        }
    }

    /// The next event; `None` after `end`.
    pub async fn next(&mut self) -> Result<Option<StreamEvent>, ClientError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.ended = event.kind == "end";
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            self.advance().await?;
        }
    }

    async fn advance(&mut self) -> Result<(), ClientError> {
        let Some(frames) = &mut self.frames else { return self.connect().await };
        match frames.next().await {
            Some(Ok(event)) => self.take(event),
            // cut, or ended by a server that stops: come back where we were
            Some(Err(_)) | None => {
                self.frames = None;
                return self.wait().await;
            }
        }
        Ok(())
    }

    fn take(&mut self, event: Event) {
        // a snapshot comes with every connection and is no progress
        self.reconnects = if event.event == "snapshot" { self.reconnects } else { 0 };
        if !event.id.is_empty() {
            self.last_event_id = event.id;
        }
        let data = serde_json::from_str(&event.data).unwrap_or(Value::String(event.data));
        self.ready.push_back(StreamEvent { kind: event.event, data });
    }

    async fn connect(&mut self) -> Result<(), ClientError> {
        let url = self.client.url(&format!("/v1/jobs/{}/events", self.id), &[]);
        let mut request = self.client.http.get(&url).header("accept", "text/event-stream");
        if !self.last_event_id.is_empty() {
            request = request.header("last-event-id", &self.last_event_id);
        }
        match self.client.keyed(request).send().await {
            // nothing came after what we have seen: the job had ended
            Ok(response) if response.status().as_u16() == 204 => self.end().await,
            Ok(response) if response.status().is_success() => {
                self.frames = Some(Box::pin(response.bytes_stream().eventsource()));
                Ok(())
            }
            Ok(response) if response.status().is_server_error() => self.wait().await,
            Ok(response) => Err(crate::refused(response).await),
            Err(source) if self.last_event_id.is_empty() => Err(ClientError::Unreachable { url, source }),
            Err(_) => self.wait().await,
        }
    }

    async fn end(&mut self) -> Result<(), ClientError> {
        let job = self.client.job(&self.id).await?;
        self.ready.push_back(StreamEvent { kind: "end".into(), data: job });
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), ClientError> {
        self.count_reconnect()?;
        tokio::time::sleep(RECONNECT_AFTER).await;
        Ok(())
    }

    fn count_reconnect(&mut self) -> Result<(), ClientError> {
        self.reconnects += 1;
        if self.reconnects > RECONNECTS_MAX { Err(ClientError::StreamLost(self.id.clone())) } else { Ok(()) }
    }
}
